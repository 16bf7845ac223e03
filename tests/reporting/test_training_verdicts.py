"""The verdict on trained tickets, from trainings made by hand: dense model 97 % accurate after 2,000 iterations."""

from collections.abc import Sequence
from dataclasses import replace
from math import isnan

import pytest
from studies import KEPT, TOTAL, record

from ltpipe.reporting.tables.findings import findings_table
from ltpipe.reporting.training_verdicts import TrainingVerdict, training_verdicts
from ltpipe.reporting.trainings import Trainings
from ltpipe.training.record import LearningRecord

DENSE = [record(replicate=replicate, accuracy=0.97 + shift) for replicate, shift in enumerate((-0.001, 0.0, 0.001))]


def tickets(level: int, gains: Sequence[float], stop: int = 2000, branch: str = "ticket") -> list[LearningRecord]:
    """Trainings of three replicates, by how much more accurate than the dense model they are."""
    return [
        record(branch, level, replicate, dense.test_accuracy + gain, stop)
        for replicate, (dense, gain) in enumerate(zip(DENSE, gains, strict=True))
    ]


def verdict(*records: Sequence[LearningRecord]) -> TrainingVerdict:
    (found,) = training_verdicts(Trainings([*DENSE, *(one for some in records for one in some)]))
    return found


def test_the_smallest_of_those_that_are_as_accurate_as_early_wins():
    found = verdict(
        tickets(1, (0.01, 0.01, 0.01)),
        tickets(2, (0.003, 0.001, -0.001), stop=1500),
        tickets(3, (0.01, 0.01, 0.01), stop=2050),  # too slow
        tickets(4, (0.01, -0.006, -0.006), stop=100),  # too inaccurate
    )
    assert found.winner.level == 2
    assert found.winner.weights_remaining == KEPT[2] / TOTAL
    gain, later = found.over_dense.accuracy, found.over_dense.iteration
    assert gain.mean == pytest.approx(0.001)
    assert not gain.interval.excludes(0)
    assert (found.winner.mean("early_stop_iteration"), later.mean) == (1500, -500)
    assert isnan(later.interval.low)
    assert (len(found.tickets), found.tickets[0].weights_remaining) == (4, KEPT[4] / TOTAL)
    assert (found.dense.mean("test_accuracy"), found.dense.mean("early_stop_iteration")) == (pytest.approx(0.97), 2000)


def test_a_ticket_that_is_as_good_wins_whatever_the_rounding():
    right = [(35, 38), (36, 36), (37, 34)]  # of 60 images; the mean of these differences is -3.7e-17 in floats
    records = [
        record(level=level, replicate=replicate, accuracy=both[level] / 60)
        for level in (0, 1)
        for replicate, both in enumerate(right)
    ]
    (found,) = training_verdicts(Trainings(records))
    assert found.winner.level == 1


def test_without_a_winner_the_most_accurate_is_told_and_of_equals_the_smallest():
    found = verdict(
        tickets(1, (-0.02,) * 3), tickets(2, (-0.01,) * 3, stop=1000), tickets(3, (0.01,) * 3, stop=3000),
        tickets(4, (0.01,) * 3, stop=3000),
    )  # fmt: skip
    assert found.winner is None
    assert found.closest.level == 4


def test_controls_are_of_that_level_and_taken_from_the_ticket():
    found = verdict(
        tickets(1, (0.02,) * 3, 3000), tickets(2, (0.01,) * 3, 1000),
        tickets(1, (-0.5,) * 3, branch="shuffled-1"), tickets(2, (-0.01, -0.011, -0.012), 1100, "shuffled-1"),
        tickets(2, (0.01,) * 3, 1000, "order-1"),
    )  # fmt: skip
    (control,) = found.controls.values()
    assert found.controls.keys() == {"shuffled mask"}
    assert control.accuracy.mean == pytest.approx(0.021)
    assert control.accuracy.interval.excludes(0)
    assert control.iteration.mean == -100


def test_without_a_dense_model_or_tickets_there_is_nothing_to_judge():
    assert training_verdicts(Trainings(DENSE)) == []
    assert training_verdicts(Trainings(tickets(1, (0.0,) * 3))) == []
    assert training_verdicts(Trainings([])) == []


@pytest.mark.parametrize(
    ("majority", "beats"),
    [(0.5, True), (0.967, True), (0.969, False), (0.99, False)],  # accuracy 97 %, give or take 0.25 points
)
def test_a_dense_model_that_names_the_most_frequent_label_decides_nothing(majority, beats):
    """Neither a verdict nor a finding."""
    alike = [
        replace(one, test_majority=majority)
        for one in [*DENSE, *tickets(7, (0.01, 0.011, 0.012)), *tickets(7, (-0.02,) * 3, branch="shuffled-1")]
    ]
    trainings = Trainings(alike)
    (found,) = training_verdicts(trainings)
    assert (found.dense.beats_chance, found.winner.level) == (beats, 7)
    table = findings_table(trainings, [])
    assert len(table) == 2
    learned = table["evidence"].str.startswith("The dense model is not significantly better than always naming")
    assert learned.all() == (not beats)
    assert ("yes" in set(table["holds"])) == beats


def test_a_training_without_controls_is_known():
    assert not verdict(tickets(1, (0.01,) * 3), tickets(1, (0.01,) * 3, branch="order-1")).controlled
    assert verdict(tickets(2, (0.01,) * 3), tickets(1, (0.01,) * 3, branch="shuffled-1")).controlled


def test_one_replicate_has_no_intervals():
    (found,) = training_verdicts(Trainings([DENSE[0], tickets(1, (0.0,) * 3)[0]]))
    assert found.over_dense.accuracy.mean == 0
    assert isnan(found.over_dense.accuracy.interval.low)
