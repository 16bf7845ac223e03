"""Solvers in a whole study: their masks and solutions, what is evaluated from them, and what a change reruns."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from checkouts import checkout, refused, reruns, snakemake
from tiny import save_tiny

from ltpipe.pruning.masks import read_mask

CONFIG: dict[str, Any] = {
    "models": {"tiny": {"source": "../models/tiny"}},
    "data": {"words": {"source": "../texts/words.txt"}, "others": {"source": "../texts/others.txt"}},
    "grid": {"criteria": ["magnitude", "wanda-sequential", "sparsegpt"], "scopes": ["row"], "sparsities": [0.5]},
    "score": {"data": "others", "sequence_length": 16, "num_sequences": 12},
    "evaluate": {"sequence_length": 16, "num_sequences": 4, "top_k": 4, "tickets_per_pass": 3},
    "robustness": {"perturbations": ["int4"]},
}
SOLVERS = ("wanda-sequential", "sparsegpt")


def write(folder: Path, **changes: Any) -> None:
    config = {key: {**value, **changes.get(key, {})} for key, value in CONFIG.items()}
    (folder / "config/config.yaml").write_text(yaml.safe_dump(config))


@pytest.mark.slow
def test_a_study_with_solvers(tmp_path: Path):
    folder = checkout(tmp_path)
    save_tiny("llama", folder / "models/tiny")
    (folder / "texts").mkdir()
    for name, factor in (("words", 7), ("others", 5)):
        words = (f"w{(factor * number) ** 2 % 93}" for number in range(900))
        (folder / f"texts/{name}.txt").write_text(" ".join(words))
    write(folder)
    snakemake(folder)
    for solver in SOLVERS:
        for place in ("tickets/tiny/words", "robustness/tiny/words/int4/seed-none"):
            ticket = folder / f"results/{place}/{solver}/row/seed-none/0.5.json"
            metrics = json.loads(ticket.read_text())
            assert metrics["criterion"] == solver
            assert metrics["tickets"] == 1
            assert {"mask", "solution"} <= metrics["provenance"]["inputs"].keys()
            assert metrics["made_with"]["score"]["options"][solver] is not None
    assert reruns(folder) == set()
    errors = pd.read_csv(folder / "results/report/reconstruction.csv")
    assert set(errors["criterion"]) == {*SOLVERS}
    assert (folder / "results/report/reconstruction.svg").exists()
    write(folder, score={"options": {"sparsegpt": {"damping": 0.1}}})
    analyses = {"overlap overlap/tiny", "validation validation/tiny", "tables tables/tiny/tickets", "report tickets"}
    assert reruns(folder) == analyses | {
        "solve tiny/sparsegpt/row/seed-none/0.5",
        "ticket tiny/words/sparsegpt/row/seed-none/0.5",
        "perturbed_ticket tiny/words/int4/seed-none/sparsegpt/row/seed-none/0.5",
    }
    write(folder, grid={"criteria": ["sparsegpt", "admm-reconstruct"], "scopes": ["owl-row"]})
    snakemake(folder)
    masks = [
        read_mask(folder / f"results/masks/tiny/{criterion}/owl-row/seed-none/0.5.safetensors").kept
        for criterion in ("wanda", "sparsegpt", "admm-reconstruct")
    ]
    assert masks[0] == masks[1] == masks[2]
    assert len(set(masks[0].values())) > 3
    assert reruns(folder) == set()
    write(folder, grid={"scopes": ["row", "global"]})
    (said,) = refused(folder)
    assert said.startswith(
        "grid.scopes[1]: scope 'global': solvers cannot do it; use row, layer, NofM (2of4), allocations"
    )
