"""The verdict on the tickets of each training."""

from dataclasses import dataclass
from statistics import fmean

from ltpipe.analysis.replicates import Estimate, paired
from ltpipe.reporting.trainings import CONTROLS, Trainings, Treatment, label
from ltpipe.training.record import TICKET


@dataclass(frozen=True)
class Difference:
    """Tickets minus other trainings, paired by replicate: accuracy on test data, and iterations to the early stop."""

    accuracy: Estimate
    iteration: Estimate


@dataclass(frozen=True)
class TrainedTicket:
    """The tickets of one level: means over replicates, and what they have over the dense model."""

    level: int
    weights_remaining: float
    accuracy: float
    iteration: float
    over_dense: Difference

    @property
    def wins(self) -> bool:
        """As accurate as the dense model after as many iterations, or better: Frankle & Carbin 2019, section 1."""
        # Equal accuracies differ by their rounding.
        return round(self.over_dense.accuracy.mean, 9) >= 0 and self.over_dense.iteration.mean <= 0


@dataclass(frozen=True)
class TrainingVerdict:
    """What the tickets of one training show.

    Attributes:
        training: its name.
        replicates: trainings of the dense model.
        levels: at which tickets were trained.
        smallest: least weights remaining of any ticket, a fraction.
        dense_accuracy, dense_iteration: the dense model's means.
        over_majority: what the dense model's accuracy is above that of naming the most frequent label always.
        beats_chance: whether that is told apart from nothing; without it no ticket is judged.
        winner: the smallest winning ticket; None if there is none.
        closest: the most accurate ticket, of equals the smallest.
        controlled: whether the training has controls, at that or another level; without any no ticket is judged.
        controls: what the winner, or else the closest, has over those of its level, by their names.
    """

    training: str
    replicates: int
    levels: int
    smallest: float
    dense_accuracy: float
    dense_iteration: float
    over_majority: Estimate
    beats_chance: bool
    winner: TrainedTicket | None
    closest: TrainedTicket
    controlled: bool
    controls: dict[str, Difference]


def training_verdicts(trainings: Trainings) -> list[TrainingVerdict]:
    """Judge the tickets of each training, by its name; one without a dense model or without tickets has no verdict."""
    return [verdict for training in trainings.names if (verdict := _verdict(training, trainings))]


def _verdict(training: str, trainings: Trainings) -> TrainingVerdict | None:
    dense = trainings.treatment(training, 0)
    pruned = [found for found in trainings if (found.training, found.kind) == (training, TICKET) and found.level > 0]
    tickets = [ticket for found in pruned if dense and (ticket := _ticket(found, dense))]
    if dense is None or not tickets:
        return None
    winner = min((ticket for ticket in tickets if ticket.wins), key=_size, default=None)
    closest = min(tickets, key=lambda ticket: (-ticket.accuracy, _size(ticket)))
    level = (winner or closest).level
    own = trainings.treatment(training, level)
    beside = {kind: trainings.treatment(training, level, kind) for kind in CONTROLS}
    controls = {label(kind): _difference(own, control) for kind, control in beside.items() if own and control}
    accuracies = dense.values("test_accuracy")
    return TrainingVerdict(
        training=training,
        replicates=len(accuracies),
        levels=len(tickets),
        smallest=min(map(_size, tickets)),
        dense_accuracy=fmean(accuracies.values()),
        dense_iteration=fmean(dense.values("early_stop_iteration").values()),
        over_majority=dense.over_majority,
        beats_chance=dense.beats_chance,
        winner=winner,
        closest=closest,
        controlled=any(found.training == training and found.kind in CONTROLS for found in trainings),
        controls={name: difference for name, difference in controls.items() if difference},
    )


def _ticket(found: Treatment, dense: Treatment) -> TrainedTicket | None:
    difference = _difference(found, dense)
    if difference is None:
        return None
    return TrainedTicket(
        level=found.level,
        weights_remaining=found.weights_remaining,
        accuracy=fmean(found.values("test_accuracy").values()),
        iteration=fmean(found.values("early_stop_iteration").values()),
        over_dense=difference,
    )


def _difference(ticket: Treatment, other: Treatment) -> Difference | None:
    """None where no replicate has both."""
    accuracy, iteration = (
        paired(ticket.values(measure), other.values(measure)) for measure in ("test_accuracy", "early_stop_iteration")
    )
    return Difference(accuracy, iteration) if accuracy and iteration else None


def _size(ticket: TrainedTicket) -> float:
    return ticket.weights_remaining
