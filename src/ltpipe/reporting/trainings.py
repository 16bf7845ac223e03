"""Runs of trainings, grouped by treatment."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ltpipe.analysis.early_bird import EarlyBird
from ltpipe.analysis.replicates import Estimate, averaged, estimate
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.frames import is_missing
from ltpipe.training.connectivity import Connectivity
from ltpipe.training.record import KINDS, TICKET, Branch, LearningRecord

if TYPE_CHECKING:
    from ltpipe.reporting.table import Need

CONTROLS = ("reinitialised", "shuffled", "random")
"""Branches that show how much a ticket owes to its initial weights and to its mask."""


@dataclass(frozen=True, eq=False)
class Treatment:
    """All runs of a training with the same branch kind at one level, over replicates and seeds.

    Attributes:
        training: name of the training.
        level: level of iterative pruning.
        kind, donor: kind and donor of the branch.
        records: records in the order of replicates and seeds.
    """

    training: str
    level: int
    kind: str
    donor: str | None
    records: tuple[LearningRecord, ...]

    @property
    def weights_remaining(self) -> float:
        """Kept / prunable weights; equal in all replicates unless transplanted masks have other counts."""
        return sum(record.kept for record in self.records) / sum(record.total for record in self.records)

    def values(self, measure: str) -> dict[int, float]:
        """Return a field of the records by replicate, averaged over a replicate's seeds."""
        return averaged((record.replicate, getattr(record, measure)) for record in self.records)

    def mean(self, measure: str) -> float:
        """Return a field of the records, averaged over replicates."""
        return fmean(self.values(measure).values())

    @property
    def over_majority(self) -> Estimate:
        """Test accuracy minus that of always naming the most frequent label."""
        accuracy, majority = self.values("test_accuracy"), self.values("test_majority")
        return estimate([accuracy[replicate] - majority[replicate] for replicate in accuracy])

    @property
    def beats_chance(self) -> bool:
        """Whether it is significantly better than the most frequent label; without an interval the mean decides."""
        found = self.over_majority
        return found.mean > 0 if isnan(found.interval.low) else found.above(0) == "yes"


class Trainings:
    """Learning records, found by training, level and branch.

    Raises:
        UserError: two of them are of one run.
    """

    def __init__(self, records: Sequence[LearningRecord]) -> None:
        self.records = sorted(records, key=_order)
        for record, following in zip(self.records, self.records[1:], strict=False):
            if _order(record) == _order(following):
                raise UserError(
                    f"records: two of training '{record.training}', replicate {record.replicate}, "
                    f"level {record.level}, branch '{record.branch}'; give each once"
                )
        found: dict[tuple[str, int, str, str | None], list[LearningRecord]] = {}
        for record in self.records:
            branch = Branch.named(record.branch)
            found.setdefault((record.training, record.level, branch.kind, branch.donor), []).append(record)
        self._treatments = {key: Treatment(*key, tuple(alike)) for key, alike in found.items()}

    def __iter__(self) -> Iterator[Treatment]:
        """All treatments: by training, level, kind and donor."""
        return iter(self._treatments.values())

    @property
    def names(self) -> list[str]:
        """Names of the trainings."""
        return sorted({record.training for record in self.records})

    def treatment(self, training: str, level: int, kind: str = TICKET) -> Treatment | None:
        """Return the treatment of a kind without donor, if there is one. The dense model is the ticket of level 0."""
        return self._treatments.get((training, level, kind, None))

    def references(self, treatment: Treatment) -> dict[str, Treatment | None]:
        """Return the treatments that one is compared with, `dense` and `ticket`; None in place of itself."""
        dense, ticket = (self.treatment(treatment.training, level) for level in (0, treatment.level))
        found = {"dense": dense, "ticket": ticket}
        return {name: None if other is treatment else other for name, other in found.items()}


@dataclass(frozen=True)
class Trained:
    """Trainings, lines between their runs, and early-bird detections."""

    trainings: Trainings
    lines: Sequence[Connectivity] = ()
    birds: Sequence[EarlyBird] = ()

    @property
    def gives(self) -> "set[Need]":
        """The needs of tables that it meets."""
        parts: dict[Need, object] = {
            "trainings": self.trainings.records,
            "lines": self.lines,
            "early birds": self.birds,
            "anything": True,
        }
        return {name for name, part in parts.items() if part}


def is_dense(row: Mapping[str, Any]) -> bool:
    """Return whether a row of the levels table is the dense model's."""
    return row["level"] == 0 and row["branch"] == TICKET


def label(branch: str, donor: Any = None) -> str:
    """Return the name of a branch kind for readers."""
    if not is_missing(donor):
        return f"mask transplanted from {donor}"
    return {
        "ticket": "ticket",
        "reinitialised": "re-initialised",
        "shuffled": "shuffled mask",
        "random": "random mask",
        "order": "other data order",
    }.get(branch, branch)


def _order(record: LearningRecord) -> tuple[Any, ...]:
    branch = Branch.named(record.branch)
    kind, seed = KINDS.index(branch.kind), -1 if branch.seed is None else branch.seed
    return record.training, record.level, kind, branch.donor or "", record.replicate, seed
