"""The exact set of jobs that each kind of change reruns, on a small study of iterative pruning that has been run."""

import shutil
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from checkouts import checkout, refused, reruns, restored, snakemake

STUDY = {
    "task": {"kind": "images", "model": "lenet-300-100", "source": "../digits.csv", "validation": 20, "test": 20},
    "train": {"optimizer": "adam", "learning_rate": 0.01, "iterations": 20, "batch_size": 10, "evaluate_every": 5},
    "compute": {"device": "cpu"},
    "rewind": {"step": 2},
    "prune": {"fraction": 0.2},
    "levels": 1,
    "replicates": [0],
    "branches": {"reinitialised": 1, "order": 1},
    "early_bird": {"sparsities": [0.5], "every": 4},
}


def write_config(folder: Path, **changes: object) -> None:
    """Write the configuration, with whole sections merged with `changes`."""
    study = deepcopy(STUDY)
    for key, value in changes.items():
        study[key] = {**study.get(key, {}), **value} if isinstance(value, dict) else value
    (folder / "config/config.yaml").write_text(yaml.safe_dump({"imp": {"small": study}}))


REPORT = {"report findings"}
TASK = {"task small/task"}


def trained(level: int, *branches: str, replicate: int = 0) -> set[str]:
    place = f"small/replicate-{replicate}/level-{level}"
    lines = {f"connectivity {place}/connectivity-{each[6:]}" for each in branches if each.startswith("order")}
    return lines | {f"training {place}/{branch}" for branch in branches}


def mask(level: int, replicate: int = 0) -> set[str]:
    return {f"level_mask small/replicate-{replicate}/level-{level}/mask"}


def point(replicate: int = 0) -> set[str]:
    return {f"rewind_point small/replicate-{replicate}/point"}


def early_bird(*sparsities: str, replicate: int = 0) -> set[str]:
    return {f"early_bird small/replicate-{replicate}/early-bird/{sparsity}" for sparsity in sparsities}


LEVEL_0, LEVEL_1 = trained(0, "ticket", "order-1"), mask(1) | trained(1, "ticket", "reinitialised-1", "order-1")
TRAININGS = LEVEL_0 | LEVEL_1
CONNECTIONS = {job for job in TRAININGS if job.startswith("connectivity")}
EVERYTHING = TASK | point() | TRAININGS | early_bird("0.5") | REPORT


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that has been run; tests put back what they change."""
    folder = checkout(tmp_path_factory.mktemp("study"))
    generator = np.random.default_rng(0)
    rows = np.c_[generator.integers(0, 256, (120, 36)), np.arange(120) % 4]
    rows[np.arange(120), 9 * rows[:, -1]] = 255
    np.savetxt(folder / "digits.csv", rows, "%d", ",")
    write_config(folder)
    assert reruns(folder) == EVERYTHING
    output = snakemake(folder)
    assert "report: results/report/index.html" in output
    return folder


@pytest.fixture
def configure(finished: Path):
    yield lambda **changes: write_config(finished, **changes)
    write_config(finished)


@pytest.fixture
def edit(finished: Path):
    with restored(finished) as append:
        yield append


def test_nothing_changed(finished: Path):
    assert reruns(finished) == set()


def test_one_more_level_runs_one_more_level(finished: Path, configure: Callable):
    configure(levels=2)
    assert reruns(finished) == mask(2) | trained(2, "ticket", "reinitialised-1", "order-1") | REPORT


@pytest.mark.slow
def test_one_more_replicate_runs_one_more_replicate(finished: Path, configure: Callable):
    configure(replicates=[0, 4])
    levels = trained(0, "ticket", "order-1", replicate=4) | mask(1, 4)
    levels |= trained(1, "ticket", "reinitialised-1", "order-1", replicate=4)
    assert reruns(finished) == point(4) | levels | early_bird("0.5", replicate=4) | REPORT


@pytest.mark.slow
def test_one_more_control_runs_one_training_a_level(finished: Path, configure: Callable):
    configure(branches={"reinitialised": 2, "shuffled": 1})
    assert reruns(finished) == trained(1, "reinitialised-2", "shuffled-1") | REPORT


@pytest.mark.slow
def test_one_more_sparsity_to_watch(finished: Path, configure: Callable):
    configure(early_bird={"sparsities": [0.5, 0.7]})
    assert reruns(finished) == early_bird("0.7") | REPORT


def test_what_changes_no_result_runs_nothing(finished: Path, configure: Callable):
    configure(compute={"save_every": 3})
    assert reruns(finished) == set()


def test_another_fraction_prunes_again(finished: Path, configure: Callable):
    configure(prune={"fraction": 0.3})
    assert reruns(finished) == LEVEL_1 | REPORT


@pytest.mark.slow
def test_another_rewinding_step_trains_again(finished: Path, configure: Callable):
    configure(rewind={"step": 3})
    assert reruns(finished) == point() | TRAININGS | REPORT


def test_another_rewinding_mode_rewinds_again(finished: Path, configure: Callable):
    configure(rewind={"mode": "learning-rate"})
    assert reruns(finished) == trained(1, "ticket", "order-1") | REPORT


@pytest.mark.slow
def test_another_learning_rate_trains_everything_again(finished: Path, configure: Callable):
    configure(train={"learning_rate": 0.02})
    assert reruns(finished) == EVERYTHING - TASK


@pytest.mark.slow
def test_old_trainings_are_refused_though_snakemake_was_told_that_they_are_new(finished: Path, tmp_path: Path):
    folder = shutil.copytree(finished, tmp_path / "study")
    write_config(folder, train={"learning_rate": 0.02})
    snakemake(folder, "--touch")
    assert reruns(folder) == set()
    why = "made with imp.small.train.learning_rate 0.01, but the configuration asks for 0.02; delete it and run again"
    place = "results/imp/small/replicate-0"
    for rule, first in (("report", "level-0/ticket.json"), ("connectivity", "level-0/ticket.safetensors")):
        errors = refused(folder, "--forcerun", rule)
        assert any(error.startswith(f"{place}/{first}: {why}") for error in errors), errors


@pytest.mark.slow
def test_another_split_makes_everything_again(finished: Path, configure: Callable):
    configure(task={"split_seed": 1})
    assert reruns(finished) == EVERYTHING


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("digits.csv", EVERYTHING, marks=pytest.mark.slow),
        pytest.param("src/ltpipe/training/loop.py", EVERYTHING - TASK, marks=pytest.mark.slow),
        ("src/ltpipe/training/connectivity.py", CONNECTIONS | REPORT),
        pytest.param("src/ltpipe/training/tasks/text.py", set(), marks=pytest.mark.slow),
        pytest.param("scripts/early_bird.py", early_bird("0.5") | REPORT, marks=pytest.mark.slow),
    ],
)
def test_edited_files(finished: Path, edit: Callable, name: str, expected: set[str]):
    edit(name, "")
    assert reruns(finished) == expected


@pytest.mark.slow
def test_all_that_a_study_can_ask_for_runs(finished: Path, configure: Callable):
    """Every branch and rewinding mode, a criterion with data, two processes, and a loop of the user's own."""
    (finished / "own.py").write_text("from ltpipe.training.loop import take_steps as train\n")
    everything = {
        "reinitialised": 2, "shuffled": 1, "random": 1, "order": 1, "transplanted": ["small"],
        "gradual": {"begin": 4, "end": 10, "every": 3}, "distilled": {"features": 0.1},
    }  # fmt: skip
    configure(
        branches=everything,
        replicates=[0, 1],
        rewind={"mode": "learning-rate", "step": 2},
        prune={"criterion": "taylor", "examples": 16, "scope": "global"},
        compute={"processes": 2, "mixed_precision": "bf16"},
        train={"trainer_fn": "own:train"},
    )
    snakemake(finished)
    assert reruns(finished) == set()
    table = pd.read_csv(finished / "results/report/trainings.csv")
    assert set(table["branch"]) == {*everything, "ticket"}
    assert set(table[table["level"] == 1]["kept"]) == {table["kept"].min()}
    assert len(pd.read_csv(finished / "results/report/findings.csv"))
    (finished / "own.py").touch()
    assert reruns(finished) == set()
    (finished / "own.py").write_text("# edited\nfrom ltpipe.training.loop import take_steps as train\n")
    assert reruns(finished) >= point() | point(1) | REPORT
