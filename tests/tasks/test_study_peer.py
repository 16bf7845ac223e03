"""Tasks in a whole study: what is asked, what a change asks again, and what the report says."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml
from checkouts import checkout, refused, reruns, snakemake
from harness_tasks import save_tasks
from tiny import save_tiny

pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed; make test-peers runs this")

CHOICE = {"task": "own_choice", "folder": "../own"}
GENERATION = {"task": "own_generation", "folder": "../own", "limit": 4}
CELLS = ("magnitude/layer/seed-none/0.5", "random/layer/seed-0/0.5")
AFTER = {"tables tables/tiny/tickets", "report tickets"}


def write_config(folder: Path, tasks: object, **changes: object) -> None:
    config = {
        "models": {"tiny": {"source": "../models/tiny"}},
        "data": {"words": {"source": "../texts/words.txt"}},
        "grid": {"criteria": ["magnitude", "random"], "scopes": ["layer"], "sparsities": [0.5]},
        "evaluate": {"sequence_length": 16, "num_sequences": 4, "tasks": tasks, **changes},
        "threads": 1,
    }
    (folder / "config/config.yaml").write_text(yaml.safe_dump(config))


def asked(*tasks: str) -> set[str]:
    """The jobs of tasks, and what reads their results."""
    jobs = set(AFTER)
    for task in tasks:
        jobs |= {f"task_requests requests/tiny/{task}", f"task_results results/tiny/{task}"}
        jobs |= {f"dense_responses responses/tiny/{task}/dense"}
        jobs |= {f"ticket_responses responses/tiny/{task}/{cell}" for cell in CELLS}
    return jobs


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = checkout(tmp_path_factory.mktemp("study") / "study")
    save_tiny("llama", folder / "models/tiny")
    save_tasks(folder / "own")
    (folder / "texts").mkdir()
    (folder / "texts/words.txt").write_text(" ".join(f"w{(7 * number) ** 2 % 93}" for number in range(500)))
    write_config(folder, {"choice": CHOICE, "continue": GENERATION})
    snakemake(folder)
    return folder


def test_the_report(finished):
    table = pd.read_csv(finished / "results/report/tasks.csv")
    assert len(table) == 3 * (2 + 1), "three models; accuracies of a choice, exact matches; no metric is of both tasks"
    limited = table[table["task"] == "continue"]
    assert set(zip(limited["documents"], limited["available"], strict=True)) == {(4, 24)}
    choices = table[(table["task"] == "choice") & table["criterion"].notna()]
    assert (choices["chance"] == 0.25).all()
    assert (choices["difference"] - (choices["value"] - choices["dense_value"])).abs().max() < 1e-12
    assert ((choices["difference_low"] <= choices["difference"]) & choices["p_value"].between(0, 1)).all()
    pairs = pd.read_csv(finished / "results/report/task_comparisons.csv")
    assert len(pairs) == 3
    assert 'id="tasks"' in (finished / "results/report/index.html").read_text()
    found = json.loads((finished / "results/tasks/results/tiny/choice.json").read_text())
    assert len(found["scores"]) == 6


def test_a_task_more_asks_that_task(finished):
    try:
        write_config(finished, {"choice": CHOICE, "continue": GENERATION, "own_score": {**CHOICE, "task": "own_score"}})
        assert reruns(finished) == asked("own_score")
        write_config(finished, {"choice": {**CHOICE, "limit": 7}, "continue": GENERATION})
        assert reruns(finished) == asked("choice")
        write_config(finished, {"choice": CHOICE})
        assert reruns(finished) == AFTER
        write_config(finished, {"choice": CHOICE, "continue": GENERATION}, num_sequences=5)
        assert not any("respons" in job for job in reruns(finished)), "texts are another matter"
    finally:
        write_config(finished, {"choice": CHOICE, "continue": GENERATION})
    assert reruns(finished) == set()


def test_an_edited_task_is_asked_again(finished):
    path = finished / "own/make.py"
    before = path.read_bytes()
    try:
        path.write_bytes(before + b"# edited\n")
        assert reruns(finished) == asked("choice", "continue")
    finally:
        path.write_bytes(before)


def test_one_line_for_a_task_that_is_not_there(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "study")
    write_config(folder, ["arc_esay"])
    (error,) = set(refused(folder))
    assert error.startswith("'arc_esay' is not a task of lm-evaluation-harness")
    assert "did you mean 'arc_easy'?" in error
    assert not (folder / "results/tasks/requests/tiny/arc_esay.safetensors").exists()
