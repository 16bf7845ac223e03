"""Artefacts that no configuration names, in a folder where every artefact of one and some others lie."""

from pathlib import Path

import pytest
import yaml
from tiny import save_tiny

from ltpipe.runtime.errors import UserError
from ltpipe.workflow.unused import Unused, delete, named_files, unused_artefacts

CONFIG = {
    "models": {"tiny": {"source": "../models/tiny"}},
    "data": {"words": {"source": "../texts/words.txt"}, "others": {"source": "../texts/others.txt"}},
    "grid": {"criteria": ["magnitude", "taylor"], "scopes": ["heads", "global"], "sparsities": [0.5]},
    "score": {"data": "others"},
    "simulation": {},
    "robustness": {"perturbations": ["int4"]},
}
UNUSED = [
    "results/baselines/old/words.json",
    "results/baselines/old/words.top.safetensors",
    "results/analysis/overlap/old.csv",
    "results/analysis/overlap/old.csv.sha256",
    "results/analysis/tables/old/tickets.parquet",
    "results/checkpoints/old/config.json",
    "results/checkpoints/old/model.safetensors",
    "results/imp/gone/replicate-0/level-1/order-1.safetensors.resume",
    "results/imp/gone/task.safetensors",
    "results/masks/tiny/magnitude/global/seed-none/0.7.safetensors",
    "results/masks/tiny/random/global/seed-0/0.5.safetensors",
    "results/masks/tiny/sparsegpt/row/seed-none/0.5.safetensors.resume/0.safetensors",
    "results/robustness/tiny/words/noise-0.1/seed-1/dense.json",
    "results/smaller/tiny/magnitude/heads/seed-none/0.7/model.safetensors",
    "results/tasks/requests/tiny/arc.safetensors",
    "results/tasks/responses/tiny/arc/dense.json",
    "results/tasks/responses/tiny/arc/magnitude/global/seed-none/0.5.json",
    "results/tasks/results/tiny/arc.json",
    "results/tickets/tiny/words/magnitude/global/seed-none/0.7.json",
]
STAY = [
    "results/logs/mask/tiny/magnitude/global/seed-none/0.7.log",
    "results/README.md",
    "results/benchmarks.md",
    "results/checkpoints/tiny/generation_config.json",
    "results/masks/tiny/magnitude/global/notes.txt",
    "results/masks/tiny/magnitude/global/seed-none/0.5.safetensors.resume/3.safetensors",
    "results/mine/0.5.safetensors",
    "results/report/tickets.csv.sha256",
    "results/smaller/tiny/magnitude/heads/seed-none/0.5/config.json",
]


def write(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(name)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "config").mkdir()
    save_tiny("llama", tmp_path / "models/tiny")
    monkeypatch.chdir(tmp_path)
    write("texts/words.txt", "texts/others.txt")
    Path("config/config.yaml").write_text(yaml.safe_dump(CONFIG))
    return tmp_path


def test_what_no_configuration_names_is_found_and_deleted(folder: Path):
    named = named_files(Path("config/config.yaml"))
    assert "results/scores/tiny/taylor.safetensors" in named
    write(*named, *STAY, *UNUSED)
    Path("results/masks/old").symlink_to(folder / "results/masks/tiny")
    Path("results/masks/tiny/linked.safetensors").symlink_to(folder / "results/README.md")
    found = unused_artefacts([Path("config/config.yaml")])
    assert found == [Unused(Path(name), len(name)) for name in sorted(UNUSED, key=Path)]

    more = {**CONFIG, "grid": {**CONFIG["grid"], "sparsities": [0.5, 0.7]}}
    Path("config/more.yaml").write_text(yaml.safe_dump(more))
    both = {file.path for file in unused_artefacts([Path("config/config.yaml"), Path("config/more.yaml")])}
    assert both == {Path(name) for name in UNUSED if "0.7" not in name}

    delete(found)
    assert not any(Path(name).exists() for name in UNUSED)
    assert all(Path(name).exists() for name in (*named, *STAY))
    assert not Path("results/imp").exists()
    assert not unused_artefacts([Path("config/config.yaml")])


@pytest.mark.usefixtures("folder")
def test_nothing_is_said_while_snakemake_runs():
    write(".snakemake/locks/0.input.lock")
    with pytest.raises(UserError, match="Snakemake is running here, or was killed; wait for it, or run snakemake"):
        unused_artefacts([Path("config/config.yaml")])


@pytest.mark.usefixtures("folder")
def test_configuration_that_cannot_be_run_is_an_error():
    Path("bad.yaml").write_text(yaml.safe_dump({**CONFIG, "models": {"tiny": {"source": "nowhere"}}}))
    with pytest.raises(UserError, match=r"bad\.yaml: cannot list .* \(models.tiny.source: .*nowhere"):
        unused_artefacts([Path("config/config.yaml"), Path("bad.yaml")])
