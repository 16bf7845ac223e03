"""Studies that share a store (Snakemake's cache between workflows) share work, and never each other's results."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from checkouts import checkout, snakemake
from tiny import save_tiny

THIRD = {"third": {"source": "../texts/c.txt"}}
CONFIG: dict[str, Any] = {
    "models": {"one": {"source": "../models/llama"}, "two": {"source": "../models/gpt2"}},
    "data": {"words": {"source": "../texts/a.txt"}, "more": {"source": "../texts/b.txt"}, **THIRD},
    "grid": {"criteria": ["wanda", "snip", "mixed"], "scopes": ["layer"], "sparsities": [0.5]},
    "score": {
        "data": "third",
        "sequence_length": 8,
        "num_sequences": 4,
        "hybrids": {"mixed": {"snip": 1.0, "magnitude": 2.0}},
    },
    "evaluate": {"data": ["words", "more"], "sequence_length": 16, "num_sequences": 4, "top_k": 4},
}
"""Two models, texts, criteria: each a pair of jobs of one rule, which Snakemake's cache has to tell apart."""

SWAPPED: dict[str, Any] = {
    **CONFIG,
    "models": {
        "one": {"source": "../models/gpt2"},
        "two": {"source": "../models/llama", "prunable": {"exclude": ["*mlp*"]}},
    },
    "data": {"words": {"source": "../texts/b.txt"}, "more": {"source": "../texts/a.txt"}, **THIRD},
    "score": {
        "data": "third",
        "sequence_length": 4,
        "num_sequences": 8,
        "hybrids": {"mixed": {"snip": 2.0, "magnitude": 1.0}},
    },
    "evaluate": {"data": ["words", "more"], "sequence_length": 4, "num_sequences": 16, "top_k": 4},
}
"""The same names for other things, and numbers that have changed places."""

MODELS = ("one", "two")
TARGETS = [
    *(f"results/scores/{model}/{criterion}.safetensors" for model in MODELS for criterion in ("wanda", "mixed")),
    *(f"results/baselines/{model}/{text}.json" for model in MODELS for text in ("words", "more")),
]
SHARED = ("checkpoints", "sequences", "calibration", "scores", "baselines")


def study(folder: Path, config: dict[str, Any]) -> Path:
    checkout(folder)
    for model in ("llama", "gpt2"):
        save_tiny(model, folder / "models" / model)
    (folder / "texts").mkdir()
    for name, step in (("a", 7), ("b", 5), ("c", 3)):
        words = (f"w{(step * number) ** 2 % 93}" for number in range(500))
        (folder / f"texts/{name}.txt").write_text(" ".join(words))
    (folder / "config/config.yaml").write_text(yaml.safe_dump(config))
    return folder


def artefacts(folder: Path) -> dict[str, Any]:
    """What studies may share, by path; of metrics without what is measured of the run."""
    found: dict[str, Any] = {}
    for kind in SHARED:
        for path in sorted((folder / "results" / kind).rglob("*")):
            if not path.is_file():
                continue
            content: Any = path.read_bytes()
            if kind == "baselines" and path.suffix == ".json":
                metrics = json.loads(content)
                content = {name: metrics[name] for name in ("model", "data", "loss", "sequence_sums", "made_with")}
                content["inputs"] = metrics["provenance"]["inputs"]
            found[str(path.relative_to(folder))] = content
    return found


@pytest.mark.slow
def test_studies_share_work_but_no_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = tmp_path / "store"
    store.mkdir()
    monkeypatch.setenv("SNAKEMAKE_OUTPUT_CACHE", str(store))  # checkpoints are then whole, whoever makes them
    alone = artefacts_of_a_run(study(tmp_path / "alone", SWAPPED))
    assert not list(store.iterdir())
    first = artefacts_of_a_run(study(tmp_path / "first", CONFIG), "--cache")
    entries = len(list(store.iterdir()))
    different = [str(first[path]) for path in first if "tokenizer" not in path and "generation" not in path]
    assert len(set(different)) == len(different)

    assert artefacts_of_a_run(study(tmp_path / "swapped", SWAPPED), "--cache") == alone

    made = len(list(store.iterdir()))
    assert made > entries
    again = study(tmp_path / "again", CONFIG)
    assert artefacts_of_a_run(again, "--cache") == first
    assert len(list(store.iterdir())) == made, "nothing is made twice"
    logs = list((again / "results/logs").rglob("*.log"))
    assert [log for log in logs if log.stat().st_size] == [], "no stage ran"
    for options in (["--cache"], []):
        assert "Nothing to be done" in snakemake(again, *options, "--dry-run", "--", *TARGETS)


def artefacts_of_a_run(folder: Path, *options: str) -> dict[str, Any]:
    snakemake(folder, *options, "--", *TARGETS)
    return artefacts(folder)
