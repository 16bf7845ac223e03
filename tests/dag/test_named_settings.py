"""Several settings in one study: each cell equals that of a study with these settings alone, and reruns alone."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from checkouts import checkout, reruns, snakemake
from tiny import save_tiny

FEW, OTHER, LONG = {"num_sequences": 2}, {"data": "other"}, {"sequence_length": 16}
CONFIG: dict[str, Any] = {
    "models": {"tiny": {"source": "../models/tiny"}},
    "data": {name: {"source": f"../texts/{name}.txt"} for name in ("words", "few", "other")},
    "grid": {"criteria": ["magnitude", "wanda", "mixed"], "scopes": ["layer"], "sparsities": [0.5]},
    "score": {
        "data": "few",
        "sequence_length": 8,
        "num_sequences": 4,
        "hybrids": {"mixed": {"wanda": 1.0, "magnitude": 2.0}},
        "settings": {"few": FEW, "other": OTHER},
    },
    "evaluate": {"data": ["words"], "sequence_length": 8, "num_sequences": 4, "settings": {"short": {}, "long": LONG}},
}


def study(folder: Path, config: dict[str, Any]) -> Path:
    checkout(folder)
    save_tiny("llama", folder / "models/tiny")
    (folder / "texts").mkdir()
    for step, name in enumerate(config["data"], 3):
        words = (f"w{(step * number) ** 2 % 93}" for number in range(500))
        (folder / f"texts/{name}.txt").write_text(" ".join(words))
    write(folder, config)
    return folder


def write(folder: Path, config: dict[str, Any]) -> None:
    (folder / "config/config.yaml").write_text(yaml.safe_dump(config))


def alone(score: dict[str, Any], evaluate: dict[str, Any]) -> dict[str, Any]:
    """The study of one of the settings each."""
    own = {
        **CONFIG,
        "score": {**CONFIG["score"], **score},
        "evaluate": {**CONFIG["evaluate"], **evaluate},
    }
    del own["score"]["settings"], own["evaluate"]["settings"]
    return own


def losses(folder: Path) -> dict[tuple[str, str], float]:
    found = {}
    for path in (folder / "results/tickets/tiny").rglob("*.json"):
        metrics = json.loads(path.read_text())
        found[metrics["data"], metrics["criterion"]] = metrics["loss"]
    return found


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = study(tmp_path_factory.mktemp("together") / "study", CONFIG)
    snakemake(folder)
    return folder


@pytest.mark.parametrize(("score", "evaluate"), [("few", "long"), ("other", "short")])
def test_cells_equal_those_of_a_study_of_these_settings_alone(
    together: Path, tmp_path: Path, score: str, evaluate: str
):
    config = alone(CONFIG["score"]["settings"][score], CONFIG["evaluate"]["settings"][evaluate])
    folder = study(tmp_path / "alone", config)
    targets = [f"results/tickets/tiny/words/{name}/layer/seed-none/0.5.json" for name in CONFIG["grid"]["criteria"]]
    snakemake(folder, "--", *targets)
    found, every = losses(folder), losses(together)
    assert len(every) == 10
    assert len(set(every.values())) == 10
    for (text, criterion), loss in found.items():
        label = criterion if criterion == "magnitude" else f"{criterion}@{score}"
        assert every[f"{text}@{evaluate}", label] == loss


CUT = "layer/seed-none/0.5"


def made(criteria: list[str], texts: list[str]) -> set[str]:
    """Masks of the criteria, and their tickets on the texts."""
    masks = {f"mask tiny/{criterion}/{CUT}" for criterion in criteria}
    return masks | {f"ticket tiny/{text}/{criterion}/{CUT}" for criterion in criteria for text in texts}


def test_settings_rerun_alone(together: Path):
    def jobs(score: dict[str, Any], evaluate: dict[str, Any]) -> set[str]:
        own = {"score": {**CONFIG["score"], **score}, "evaluate": {**CONFIG["evaluate"], **evaluate}}
        write(together, {**CONFIG, **own})
        return {job for job in reruns(together) if job.split()[0] not in ("overlap", "validation", "tables", "report")}

    def scored(settings: str, text: str) -> set[str]:
        criteria = [f"wanda@{settings}", f"mixed@{settings}"]
        return {
            f"calibration tiny/{text}@{settings}",
            f"score tiny/wanda@{settings}",
            f"hybrid tiny/mixed@{settings}",
            *(f"histogram tiny/{criterion}/seed-none" for criterion in criteria),
            *made(criteria, ["words@short", "words@long"]),
        }

    assert jobs({}, {}) == set()
    assert jobs({"settings": {"few": {"num_sequences": 3}, "other": OTHER}}, {}) == scored("few", "few")
    assert jobs({"settings": {**CONFIG["score"]["settings"], "base": {}}}, {}) == scored("base", "few")
    assert jobs({"num_sequences": 5}, {}) == scored("other", "other"), "these settings leave it to the section"
    criteria = ["magnitude", *(f"{name}@{settings}" for name in ("wanda", "mixed") for settings in ("few", "other"))]
    tickets = {job for job in made(criteria, ["words@long"]) if job.startswith("ticket")}
    longer = {"settings": {"short": {}, "long": {"sequence_length": 12}}}
    assert jobs({}, longer) == {"sequences tiny/words@long", "baseline tiny/words@long", *tickets}
    write(together, CONFIG)
