"""Critical sparsities come to a bracket of their width, by new masks and tickets alone, on a real small sweep."""

from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from checkouts import checkout, reruns, snakemake
from tiny import save_tiny

CONFIG = {
    "models": {"tiny": {"source": "../models/tiny"}},
    "data": {"words": {"source": "../texts/words.txt"}},
    "grid": {"criteria": ["magnitude", "random"], "scopes": ["layer", "2of4"], "sparsities": [0.3, 0.7], "seeds": [3]},
    "evaluate": {"sequence_length": 16, "num_sequences": 4, "device": "cpu"},
    "threads": 1,
}
TEXT = " ".join(f"w{(7 * number) ** 2 % 93}" for number in range(500))


def write_config(folder: Path, **refine: float) -> None:
    config = {**CONFIG, "grid": {**CONFIG["grid"], "refine": refine or None}}
    (folder / "config/config.yaml").write_text(yaml.safe_dump(config))


def learn(model: Path) -> None:
    """Teach a model its text, so that there is something to lose."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    live, tokenizer = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    ids = torch.tensor(tokenizer(TEXT)["input_ids"][:480]).view(-1, 16)
    optimizer = torch.optim.Adam(live.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        live(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    live.save_pretrained(model)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = checkout(tmp_path_factory.mktemp("study"))
    save_tiny("llama", place / "models/tiny")
    (place / "texts").mkdir()
    (place / "texts/words.txt").write_text(TEXT)
    return place


def test_rounds_are_jobs_only_where_there_is_something_to_refine(folder: Path):
    write_config(folder, to=0.1)
    assert {job for job in reruns(folder) if job.startswith("refinement")} == {
        f"refinement refinement/tiny/{number}" for number in (1, 2, 3)
    }
    for nothing in ({}, {"to": 0.4}):
        write_config(folder, **nothing)
        assert not any(job.startswith("refinement") for job in reruns(folder))


@pytest.mark.slow
def test_brackets_come_to_their_width_and_nothing_is_made_twice(folder: Path):
    learn(folder / "models/tiny")
    write_config(folder)
    snakemake(folder)
    coarse = pd.read_csv(folder / "results/report/curves.csv")
    assert set(coarse["scope"]) == {"layer"}
    known = {path: path.read_bytes() for path in (folder / "results/tickets").rglob("*.json")}

    write_config(folder, to=0.1)
    snakemake(folder)
    assert reruns(folder) == set()
    curves, tickets = (pd.read_csv(folder / f"results/report/{name}.csv") for name in ("curves", "tickets"))
    assert (curves["first_losing_sparsity"] - curves["last_winning_sparsity"] <= 0.1 + 1e-9).all()
    assert (curves["last_winning_sparsity"] >= coarse["last_winning_sparsity"]).all()
    assert (curves["first_losing_sparsity"] <= coarse["first_losing_sparsity"]).all()
    assert all(path.read_bytes() == content for path, content in known.items())
    winner = curves.set_index("criterion").loc["magnitude", "last_winning_sparsity"]
    if winner:
        assert winner in set(tickets[tickets["criterion"] == "random"]["sparsity"]), "its control"
    made = {path.relative_to(folder / "results/masks") for path in (folder / "results/masks").rglob("*.safetensors")}
    assert len(tickets) == len(made)
    validated = pd.read_csv(folder / "results/report/validation.csv")
    assert len(validated) == len(tickets)
    page = (folder / "results/report/index.html").read_text()
    assert "last winning" in page

    write_config(folder, to=0.05)
    snakemake(folder)
    finer = pd.read_csv(folder / "results/report/tickets.csv")
    assert set(tickets["sparsity"]) <= set(finer["sparsity"])
    assert all(path.read_bytes() == content for path, content in known.items())
    write_config(folder)
    assert {job.split()[0] for job in reruns(folder)} == {"overlap", "validation", "tables", "report"}
