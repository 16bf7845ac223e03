"""The trainings that a configuration spans."""

from pathlib import Path
from typing import Any

import yaml

from ltpipe.workflow import trainings
from ltpipe.workflow.config import check_config

ROOT = Path(__file__).parents[2]


def config(**changes: Any) -> dict[str, Any]:
    training = yaml.safe_load((ROOT / "config/digits-imp.yaml").read_text(encoding="utf-8"))["imp"]["digits"]
    training = {**training, "levels": 2, "replicates": [7, 2], "branches": {}, "early_bird": None, **changes}
    return check_config({"imp": {"a": training, "b": {**training, "branches": {}}}})


def branches(level: int, **changes: Any) -> list[str]:
    return [
        cell.branch
        for cell in trainings.every_training(config(**changes))
        if (cell.training, cell.replicate, cell.level) == ("a", "2", str(level))
    ]


EVERYTHING = {
    "reinitialised": 2, "shuffled": 1, "random": 1, "order": 2, "transplanted": ["b", "a"],
    "gradual": {"end": 500}, "distilled": {},
}  # fmt: skip


def test_a_training_is_replicates_times_levels():
    cells = trainings.every_training(config())
    assert [(cell.training, cell.replicate, cell.level) for cell in cells] == [
        (training, replicate, level) for training in "ab" for replicate in "27" for level in "012"
    ]
    assert {cell.branch for cell in cells} == {"ticket"}


def test_branches_and_their_levels():
    assert branches(0, branches=EVERYTHING) == ["ticket", "order-1", "order-2"]
    everything = [
        "ticket", "reinitialised-1", "reinitialised-2", "shuffled-1", "random-1", "order-1", "order-2",
        "transplanted-a", "transplanted-b", "gradual", "distilled",
    ]  # fmt: skip
    assert branches(1, branches=EVERYTHING) == everything
    some = {**EVERYTHING, "levels": [2]}
    assert branches(2, branches=some) == everything
    assert branches(1, branches=some) == branches(0, branches=some) == ["ticket"]


def test_lines_lead_to_every_child_with_another_order():
    lines = trainings.connectivities(config(branches={"order": 2, "levels": [0, 2]}))
    assert lines == [
        f"results/imp/a/replicate-{replicate}/level-{level}/connectivity-{order}.json"
        for replicate in (2, 7)
        for level in (0, 2)
        for order in (1, 2)
    ]


def test_early_birds_by_replicate_and_sparsity():
    found = trainings.early_birds(config(early_bird={"sparsities": [0.7, 0.50]}))
    assert found == [
        f"results/imp/{training}/replicate-{replicate}/early-bird/{sparsity}.json"
        for training in "ab"
        for replicate in (2, 7)
        for sparsity in ("0.5", "0.7")
    ]


def test_masks_come_from_the_next_replicate_or_from_the_same_one_of_another_training():
    given = config(replicates=[7, 2, 4])
    assert [trainings.donor(given, "a", replicate, "a") for replicate in ("2", "4", "7")] == ["4", "7", "2"]
    assert trainings.donor(given, "a", "4", "b") == "4"
