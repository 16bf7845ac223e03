"""The verdict on the tickets of each study that is trained."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ltpipe.reporting.trainings import label
from ltpipe.training.record import TICKET

CONTROLS = ("reinitialised", "shuffled", "random")
"""Branches that say what a ticket owes to its initial weights and to its mask."""


@dataclass(frozen=True)
class Mean:
    """A mean over replicates, and the bounds of its 95 % interval; None where there is none."""

    value: float
    low: float | None
    high: float | None

    @classmethod
    def of(cls, row: Mapping[str, Any], measure: str) -> "Mean":
        """A measure of a row of the levels table."""
        bounds = (row[f"{measure}_{bound}"] for bound in ("low", "high"))
        return cls(row[measure], *(None if pd.isna(bound) else bound for bound in bounds))

    def __neg__(self) -> "Mean":
        """The mean of a difference the other way round."""
        return Mean(-self.value, *(None if bound is None else -bound for bound in (self.high, self.low)))

    @property
    def tells(self) -> bool:
        """Whether 0 lies outside of the interval."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


@dataclass(frozen=True)
class TrainedTicket:
    """The tickets of one level: accuracies are fractions of test data, iterations those of the early stop."""

    level: int
    weights_remaining: float
    accuracy: float
    iteration: float
    gain: Mean
    """Of accuracy over the dense model."""
    later: Mean
    """Iterations after the dense model's early stop."""

    @property
    def wins(self) -> bool:
        """As accurate as the dense model after as many iterations, or better: Frankle & Carbin 2019, section 1."""
        return round(self.gain.value, 9) >= 0 and self.later.value <= 0  # equal accuracies differ by their rounding


@dataclass(frozen=True)
class Control:
    """A ticket minus what was trained at its level in its place: accuracy, and iterations to the early stop."""

    name: str
    gain: Mean
    later: Mean


@dataclass(frozen=True)
class StudyVerdict:
    """What the trained tickets of one study show.

    Attributes:
        study: its name.
        replicates: trainings of the dense model.
        levels: at which tickets were trained.
        smallest: least weights remaining of any ticket, a fraction.
        dense_accuracy, dense_iteration: the dense model's means.
        winner: the smallest winning ticket; None if there is none.
        closest: the most accurate ticket, of equals the smallest.
        controls: of the winner, or else of the closest.
    """

    study: str
    replicates: int
    levels: int
    smallest: float
    dense_accuracy: float
    dense_iteration: float
    winner: TrainedTicket | None
    closest: TrainedTicket
    controls: tuple[Control, ...]


def study_verdicts(levels: pd.DataFrame) -> list[StudyVerdict]:
    """Judge the tickets of each study, by its name; one without a dense model or without tickets has no verdict.

    Args:
        levels: the levels table.
    """
    found = (_verdict(str(study), rows) for study, rows in levels[levels["donor"].isna()].groupby("study"))
    return [verdict for verdict in found if verdict]


def _verdict(study: str, rows: pd.DataFrame) -> StudyVerdict | None:
    dense = rows[(rows["branch"] == TICKET) & (rows["level"] == 0)]
    pruned = rows[(rows["branch"] == TICKET) & (rows["level"] > 0)].dropna(subset="test_accuracy_minus_dense")
    if dense.empty or pruned.empty:
        return None
    tickets = [_ticket(row) for row in pruned.to_dict("records")]
    winner = min((ticket for ticket in tickets if ticket.wins), key=_size, default=None)
    closest = min(tickets, key=lambda ticket: (-ticket.accuracy, _size(ticket)))
    best = winner or closest
    beside = rows[(rows["level"] == best.level) & rows["branch"].isin(CONTROLS)]
    return StudyVerdict(
        study=study,
        replicates=int(dense["replicates"].iloc[0]),
        levels=len(tickets),
        smallest=min(map(_size, tickets)),
        dense_accuracy=float(dense["test_accuracy"].iloc[0]),
        dense_iteration=float(dense["early_stop_iteration"].iloc[0]),
        winner=winner,
        closest=closest,
        controls=tuple(
            Control(
                label(row["branch"]),
                -Mean.of(row, "test_accuracy_minus_ticket"),
                -Mean.of(row, "early_stop_iteration_minus_ticket"),
            )
            for row in beside.dropna(subset="test_accuracy_minus_ticket").to_dict("records")
        ),
    )


def _ticket(row: Mapping[str, Any]) -> TrainedTicket:
    return TrainedTicket(
        level=int(row["level"]),
        weights_remaining=row["weights_remaining"],
        accuracy=row["test_accuracy"],
        iteration=row["early_stop_iteration"],
        gain=Mean.of(row, "test_accuracy_minus_dense"),
        later=Mean.of(row, "early_stop_iteration_minus_dense"),
    )


def _size(ticket: TrainedTicket) -> float:
    return ticket.weights_remaining
