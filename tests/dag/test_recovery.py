"""Recoveries in a whole study: what is trained, what is evaluated and reported, and what a change trains again."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from checkouts import checkout, refused, reruns, snakemake
from tiny import save_tiny

from ltpipe.recovery.record import RecoveryRecord

LORA = {"mode": "lora", "tokens": 128, "sequence_length": 16, "batch_size": 2, "rank": 2, "learning_rate": 0.01}
NORMS = {"mode": "norms-and-biases", "tokens": 64, "sequence_length": 16, "batch_size": 2, "sparsities": [0.5]}
CONFIG: dict[str, Any] = {
    "models": {"tiny": {"source": "../models/tiny"}},
    "data": {"words": {"source": "../texts/words.txt"}, "others": {"source": "../texts/others.txt"}},
    "grid": {"criteria": ["magnitude", "wanda"], "scopes": ["layer"], "sparsities": [0.25, 0.5]},
    "score": {"data": "others", "sequence_length": 16, "num_sequences": 4},
    "evaluate": {"sequence_length": 16, "num_sequences": 4, "top_k": 4, "tickets_per_pass": 3},
    "recover": {"lora": LORA, "norms": NORMS},
    "threads": 1,
}
CRITERIA = ("magnitude", "wanda")
LORA_CELLS = {f"{criterion}+lora/layer/seed-none/{sparsity}" for criterion in CRITERIA for sparsity in (0.25, 0.5)}
CONTROL = "magnitude+{}/layer/seed-none/0"
NORMS_CELLS = {f"{criterion}+norms/layer/seed-none/0.5" for criterion in CRITERIA}
AFTER = {"tables tables/tiny/tickets", "report tickets"}


def write(folder: Path, **changes: Any) -> None:
    config = {
        key: {**value, **changes.get(key, {})} if isinstance(value, dict) else value for key, value in CONFIG.items()
    }
    (folder / "config/config.yaml").write_text(yaml.safe_dump(config))


def trained(*cells: str) -> set[str]:
    """The jobs of recovered tickets, and what reads their results."""
    return AFTER | {f"recover tiny/tickets/{cell}" for cell in cells} | {f"ticket tiny/words/{cell}" for cell in cells}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = checkout(tmp_path_factory.mktemp("study"))
    save_tiny("llama", folder / "models/tiny")
    (folder / "texts").mkdir()
    for name, factor in (("words", 7), ("others", 5)):
        words = (f"w{(factor * number) ** 2 % 93}" for number in range(900))
        (folder / f"texts/{name}.txt").write_text(" ".join(words))
    write(folder)
    snakemake(folder)
    return folder


def test_the_report(finished):
    table = pd.read_csv(finished / "results/report/recovery.csv", keep_default_na=False, na_values=[""])
    assert len(table) == len(LORA_CELLS) + len(NORMS_CELLS) + 2
    assert (table["change"] - (table["after"] - table["before"])).abs().max() < 1e-12
    tickets = pd.read_csv(finished / "results/report/tickets.csv")
    assert len(tickets) == 4 + len(table)
    losses = {(row.criterion, row.sparsity): row.loss for row in tickets.itertuples()}
    control = table[table["sparsity"] == 0].set_index("criterion")
    assert set(control.index) == {"magnitude+lora", "magnitude+norms"}
    assert control["control"].isna().all()
    assert (control["before"] == control["dense"]).all()
    for row in table[table["sparsity"] > 0].itertuples():
        pruned, _, recovery = row.criterion.partition("+")
        assert (row.before, row.after) == (losses[pruned, row.sparsity], losses[row.criterion, row.sparsity])
        assert row.control == losses[f"magnitude+{recovery}", 0.0] == control["after"][f"magnitude+{recovery}"]
        assert row.beyond_control == pytest.approx(row.after - row.control, abs=1e-12)
        assert row.change_low <= row.change <= row.change_high
        assert row.significant == (not row.change_low <= 0 <= row.change_high)
    assert (table[table["mode"] == "lora"]["change"] < 0).all()
    assert set(table["tokens"]) == {128, 64}
    assert 'id="recovery"' in (finished / "results/report/index.html").read_text()
    assert (finished / "results/report/recovery.svg").exists()


def test_what_is_trained_is_what_is_recorded(finished):
    record = RecoveryRecord.read(finished / "results/recovered/tiny/tickets/wanda+lora/layer/seed-none/0.5.json")
    metrics = json.loads((finished / "results/tickets/tiny/words/wanda+lora/layer/seed-none/0.5.json").read_text())
    assert record.criterion == metrics["criterion"] == "wanda+lora"
    assert {"mask", "solution"} <= metrics["provenance"]["inputs"].keys()
    assert record.provenance["inputs"]["mask"] == metrics["provenance"]["inputs"]["mask"]
    assert metrics["made_with"]["recover"]["lora"]["learning_rate"] == 0.01
    assert metrics["tickets"] == 1, "its weights are its own"
    assert not (finished / "results/masks/tiny/wanda+lora").exists()


def test_a_change_trains_what_it_concerns(finished):
    try:
        assert reruns(finished) == set()
        write(finished, recover={"norms": {**NORMS, "learning_rate": 0.002}})
        assert reruns(finished) == trained(*NORMS_CELLS, CONTROL.format("norms"))
        write(finished, recover={"norms": {**NORMS, "tokens": 128}})
        assert reruns(finished) == trained(*NORMS_CELLS, CONTROL.format("norms")) | {
            "recovery_text tiny/sequences/others/norms"
        }
        write(finished, recover={"lora": {**LORA, "compute": {"save_every": 3}, "schedule": "linear"}})
        assert reruns(finished) == set(), "nothing that the result depends on"
        write(finished, recover={"lora": {**LORA, "criteria": ["wanda"]}})
        assert reruns(finished) == AFTER
        added = {cell.replace("0.25", "0.75") for cell in LORA_CELLS if "0.25" in cell}
        write(finished, grid={"sparsities": [0.25, 0.5, 0.75]})
        pruned = {cell.replace("+lora", "") for cell in added}
        analyses = {"overlap overlap/tiny", "validation validation/tiny"}
        made = {f"{rule}/{cell}" for cell in pruned for rule in ("mask tiny", "ticket tiny/words")}
        assert reruns(finished) == trained(*added) | analyses | made
    finally:
        write(finished)


def test_an_edit_trains_again(finished):
    path = finished / "src/ltpipe/recovery/masked.py"
    before = path.read_bytes()
    try:
        path.write_bytes(before + b"# edited\n")
        cells = {*LORA_CELLS, *NORMS_CELLS, CONTROL.format("lora"), CONTROL.format("norms")}
        assert reruns(finished) == trained(*cells)
    finally:
        path.write_bytes(before)


@pytest.mark.slow
def test_two_runs_are_equal_to_the_byte(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "study")
    snakemake(folder, "--forcerun", "recover")
    for path in sorted((finished / "results/recovered").rglob("*.safetensors")):
        assert (folder / path.relative_to(finished)).read_bytes() == path.read_bytes(), path


@pytest.mark.slow
def test_a_recovery_starts_where_a_solver_ended(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "study")
    write(folder, grid={"criteria": ["sparsegpt"], "scopes": ["2of4"], "sparsities": [0.5]})
    snakemake(folder)
    table = pd.read_csv(folder / "results/report/recovery.csv")
    assert set(table["criterion"]) == {"sparsegpt+lora", "sparsegpt+norms", "magnitude+lora", "magnitude+norms"}
    errors = pd.read_csv(folder / "results/report/reconstruction.csv")
    assert set(errors["criterion"]) == {"sparsegpt"}, "a recovery has no errors of reconstruction"
    lora = table[table["criterion"] == "sparsegpt+lora"]
    assert np.isfinite(lora["change"]).all()
    assert reruns(folder) == set()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"recover": {"lora": {**LORA, "data": "words"}}, "evaluate": {"data": ["words"]}},
            "recover.lora.data: 'words' shares documents with the evaluated text 'words'",
        ),
        ({"recover": {"lora": {**LORA, "data": "none"}}}, "recover.lora.data: 'none' is not a text; use others, words"),
        (
            {"recover": {"lora": {**LORA, "criteria": ["snip"]}}},
            "recover.lora.criteria[0]: snip is not in grid.criteria",
        ),
        (
            {
                "grid": {"criteria": ["wanda"], "scopes": ["layer"]},
                "recover": {"norms": {**NORMS, "sparsities": [0.5, 0.75]}},
            },
            "recover.norms.sparsities[1]: 0.75 is not in grid.sparsities; use 0.25, 0.5",
        ),
        ({"recover": {"lora": {**LORA, "mode": "qlora"}}}, "recover.lora.mode: 'qlora' is not allowed"),
        ({"recover": {"lora": {**LORA, "compute": {"processes": 4}}}}, "recover.lora.batch_size: 2 is not allowed"),
    ],
)
def test_mistakes_are_one_line(finished, tmp_path, changes, words):
    folder = tmp_path / "study"
    shutil.copytree(finished, folder, ignore=shutil.ignore_patterns("results", ".snakemake"))
    write(folder, **changes)
    (said,) = refused(folder)
    assert said.startswith(words), said
