"""The verdict on the tickets of each training."""

from dataclasses import dataclass
from typing import Self

from ltpipe.analysis.replicates import Estimate, paired
from ltpipe.reporting.trainings import CONTROLS, Trainings, Treatment, label
from ltpipe.training.record import TICKET


@dataclass(frozen=True)
class Difference:
    """Tickets minus other runs, paired by replicate: accuracy on test data, and iterations to the early stop."""

    accuracy: Estimate
    iteration: Estimate

    @classmethod
    def between(cls, ticket: Treatment, other: Treatment) -> Self | None:
        """None if no replicate has both."""
        accuracy, iteration = (
            paired(ticket.values(measure), other.values(measure))
            for measure in ("test_accuracy", "early_stop_iteration")
        )
        return cls(accuracy, iteration) if accuracy and iteration else None

    @property
    def wins(self) -> bool:
        """As accurate after as many iterations, or better: Frankle & Carbin 2019, section 1."""
        return round(self.accuracy.mean, 9) >= 0 and self.iteration.mean <= 0  # equal accuracies differ by rounding


@dataclass(frozen=True)
class TrainingVerdict:
    """What the tickets of one training show.

    Attributes:
        training: its name.
        dense: runs of the dense model; no ticket is judged unless they beat chance.
        tickets: runs of the tickets of each level.
        winner: the smallest winning ticket; None if there is none.
        closest: the most accurate ticket, of equals the smallest.
        over_dense: the winner, or else the closest ticket, minus the dense model.
        controlled: whether the training has controls, at that or another level; without any no ticket is judged.
        controls: the same ticket minus the controls of its level, by their names.
    """

    training: str
    dense: Treatment
    tickets: tuple[Treatment, ...]
    winner: Treatment | None
    closest: Treatment
    over_dense: Difference
    controlled: bool
    controls: dict[str, Difference]


def training_verdicts(trainings: Trainings) -> list[TrainingVerdict]:
    """Judge the tickets of each training, by its name; one without a dense model or without tickets has no verdict."""
    return [verdict for training in trainings.names if (verdict := _verdict(training, trainings))]


def _verdict(training: str, trainings: Trainings) -> TrainingVerdict | None:
    dense = trainings.treatment(training, 0)
    runs = [found for found in trainings if found.training == training]
    over_dense = {
        found: difference
        for found in runs
        if dense and found.kind == TICKET and found.level > 0 and (difference := Difference.between(found, dense))
    }
    if dense is None or not over_dense:
        return None
    by_size = sorted(over_dense, key=lambda ticket: ticket.weights_remaining)
    winner = next((ticket for ticket in by_size if over_dense[ticket].wins), None)
    closest = max(by_size, key=lambda ticket: ticket.mean("test_accuracy"))
    best = winner or closest
    beside = {label(kind): trainings.treatment(training, best.level, kind) for kind in CONTROLS}
    controls = {name: Difference.between(best, control) for name, control in beside.items() if control}
    return TrainingVerdict(
        training=training,
        dense=dense,
        tickets=tuple(by_size),
        winner=winner,
        closest=closest,
        over_dense=over_dense[best],
        controlled=any(found.kind in CONTROLS for found in runs),
        controls={name: difference for name, difference in controls.items() if difference},
    )
