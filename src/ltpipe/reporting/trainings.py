"""Trainings as tidy tables: one row a training, a level's branch, a point of a line, a mask of a detection."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

import pandas as pd

from ltpipe.analysis.confidence import bounds
from ltpipe.analysis.early_bird import EarlyBird
from ltpipe.analysis.replicates import Estimate, averaged, estimate, paired
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.frames import frame
from ltpipe.training.connectivity import Connectivity
from ltpipe.training.record import KINDS, TICKET, Branch, LearningRecord

TRAININGS: dict[str, str] = {
    "study": "string",
    "replicate": "Int64",
    "level": "Int64",
    "branch": "string",
    "branch_seed": "Int64",
    "donor": "string",
    "kept": "Int64",
    "total": "Int64",
    "weights_remaining": "float64",
    "early_stop_iteration": "Int64",
    "validation_loss": "float64",
    "validation_accuracy": "float64",
    "test_loss": "float64",
    "test_accuracy": "float64",
    "final_test_loss": "float64",
    "final_test_accuracy": "float64",
    "seconds": "float64",
}
"""Columns of the trainings table and their dtypes. Losses are nats per label, at the early-stop iteration unless their
name begins with `final`; accuracies and weights remaining are fractions."""

MEASURES = ("test_accuracy", "final_test_accuracy", "test_loss", "early_stop_iteration")
REFERENCES = ("dense", "ticket")

LEVELS: dict[str, str] = {
    "study": "string",
    "level": "Int64",
    "branch": "string",
    "donor": "string",
    "weights_remaining": "float64",
    "replicates": "Int64",
    **{
        f"{measure}{against}{bound}": "float64"
        for measure in MEASURES
        for against in ("", *(f"_minus_{reference}" for reference in REFERENCES))
        for bound in ("", "_low", "_high")
    },
}
"""Columns of the levels table: means over replicates, mean differences from the dense model and from the level's
ticket, paired by replicate, and in `_low` and `_high` the bounds of 95 % intervals; a single replicate has none."""

CONNECTIVITY: dict[str, str] = {
    "study": "string",
    "replicate": "Int64",
    "level": "Int64",
    "first": "string",
    "second": "string",
    "alpha": "float64",
    "error": "float64",
    "barrier": "float64",
    "stable": "boolean",
}
"""Columns of the connectivity table: one row a point of a line; errors and barriers are fractions."""

EARLY_BIRDS: dict[str, str] = {
    "study": "string",
    "replicate": "Int64",
    "sparsity": "float64",
    "rule": "string",
    "threshold": "float64",
    "window": "Int64",
    "patience": "Int64",
    "chance_corrected": "boolean",
    "iteration": "Int64",
    "distance": "float64",
    "converged": "Int64",
}
"""Columns of the early-bird table: one row a mask; `converged` is the iteration of the first that had converged."""


@dataclass(frozen=True)
class Treatment:
    """All trainings of a study that were trained alike at one level, whatever their replicate and seed.

    Attributes:
        study, level: which.
        kind, donor: of the branch.
        records: in the order of replicates and seeds.
    """

    study: str
    level: int
    kind: str
    donor: str | None
    records: tuple[LearningRecord, ...]

    @property
    def weights_remaining(self) -> float:
        """Kept / prunable weights; equal in all replicates unless masks of other counts were transplanted."""
        return sum(record.kept for record in self.records) / sum(record.total for record in self.records)

    def values(self, measure: str) -> dict[int, float]:
        """A field of the records by replicate, averaged over a replicate's seeds."""
        return averaged((record.replicate, getattr(record, measure)) for record in self.records)

    @property
    def over_majority(self) -> Estimate:
        """Test accuracy minus that of naming the most frequent label always."""
        accuracy, majority = self.values("test_accuracy"), self.values("test_majority")
        return estimate([accuracy[replicate] - majority[replicate] for replicate in accuracy])

    @property
    def beats_chance(self) -> bool:
        """Whether it is told apart from naming the most frequent label; without an interval the mean decides."""
        found = self.over_majority
        return found.mean > 0 if isnan(found.interval.low) else found.above(0) == "yes"


class Trainings:
    """Learning records, found by study, level and branch.

    Raises:
        UserError: two of them are of one training.
    """

    def __init__(self, records: Sequence[LearningRecord]) -> None:
        self.records = sorted(records, key=_order)
        for record, following in zip(self.records, self.records[1:], strict=False):
            if _order(record) == _order(following):
                raise UserError(
                    f"records: two of study '{record.study}', replicate {record.replicate}, level {record.level}, "
                    f"branch '{record.branch}'; give each once"
                )
        found: dict[tuple[str, int, str, str | None], list[LearningRecord]] = {}
        for record in self.records:
            branch = Branch.named(record.branch)
            found.setdefault((record.study, record.level, branch.kind, branch.donor), []).append(record)
        self._treatments = {key: Treatment(*key, tuple(alike)) for key, alike in found.items()}

    def __iter__(self) -> Iterator[Treatment]:
        """All treatments: by study, level, kind and donor."""
        return iter(self._treatments.values())

    @property
    def studies(self) -> list[str]:
        """Names of the studies."""
        return sorted({record.study for record in self.records})

    def treatment(self, study: str, level: int, kind: str = TICKET) -> Treatment | None:
        """The treatment of a kind without donor; None if there is none. The dense model is the ticket of level 0."""
        return self._treatments.get((study, level, kind, None))

    def references(self, treatment: Treatment) -> dict[str, Treatment | None]:
        """What a treatment is compared with, by the names of `REFERENCES`; never with itself."""
        dense, ticket = (self.treatment(treatment.study, level) for level in (0, treatment.level))
        found = {"dense": dense, "ticket": ticket}
        return {name: None if other is treatment else other for name, other in found.items()}


def trainings_table(trainings: Trainings) -> pd.DataFrame:
    """One row a training, by study, replicate, level and branch."""
    rows = []
    for record in trainings.records:
        branch = Branch.named(record.branch)
        row = {name: getattr(record, name) for name in TRAININGS if hasattr(record, name)}
        rows.append(row | {"branch": branch.kind, "branch_seed": branch.seed, "donor": branch.donor})
    table = frame(rows, TRAININGS)
    return table.sort_values(["study", "replicate"], kind="stable", ignore_index=True)


def levels_table(trainings: Trainings) -> pd.DataFrame:
    """One row a study, level and branch kind, and donor of transplanted masks: means and differences over replicates.

    The dense model, a ticket of level 0, has no differences from itself, nor has a ticket from itself.
    """
    rows = []
    for treatment in trainings:
        values = {measure: treatment.values(measure) for measure in MEASURES}
        row: dict[str, Any] = {
            "study": treatment.study,
            "level": treatment.level,
            "branch": treatment.kind,
            "donor": treatment.donor,
            "weights_remaining": treatment.weights_remaining,
            "replicates": len(values["test_accuracy"]),
        }
        for measure in MEASURES:
            row |= _columns(measure, estimate(list(values[measure].values())))
            for name, other in trainings.references(treatment).items():
                if other is not None:
                    row |= _columns(f"{measure}_minus_{name}", paired(values[measure], other.values(measure)))
        rows.append(row)
    return frame(rows, LEVELS)


def connectivity_table(lines: Sequence[Connectivity]) -> pd.DataFrame:
    """One row a point of a line, by study, replicate, level, branches and place."""
    ordered = sorted(lines, key=lambda line: (line.study, line.replicate, line.level, line.branches))
    rows = [
        {name: getattr(line, name) for name in CONNECTIVITY if hasattr(line, name)}
        | {"first": line.branches[0], "second": line.branches[1], "alpha": alpha, "error": error}
        for line in ordered
        for alpha, error in zip(line.alphas, line.errors, strict=True)
    ]
    return frame(rows, CONNECTIVITY)


def early_birds_table(birds: Sequence[EarlyBird]) -> pd.DataFrame:
    """One row a mask that was drawn, by study, replicate, sparsity and iteration."""
    ordered = sorted(birds, key=lambda bird: (bird.study, bird.replicate, float(bird.sparsity)))
    rows = [
        {name: getattr(bird, name) for name in EARLY_BIRDS if hasattr(bird, name)}
        | {"sparsity": float(bird.sparsity), "iteration": iteration, "distance": distance}
        for bird in ordered
        for iteration, distance in zip(bird.iterations, bird.distances, strict=True)
    ]
    return frame(rows, EARLY_BIRDS)


def is_dense(row: Mapping[str, Any]) -> bool:
    """Whether a row of the levels table is the dense model's."""
    return row["level"] == 0 and row["branch"] == TICKET


def label(branch: str, donor: Any = None) -> str:
    """A branch kind as people see it."""
    if not pd.isna(donor):
        return f"mask transplanted from {donor}"
    return {
        "ticket": "ticket",
        "reinitialised": "re-initialised",
        "shuffled": "shuffled mask",
        "random": "random mask",
        "order": "other data order",
    }.get(branch, branch)


def _columns(name: str, found: Estimate | None) -> dict[str, float]:
    return {} if found is None else {name: found.mean, **bounds(name, found.interval)}


def _order(record: LearningRecord) -> tuple[Any, ...]:
    branch = Branch.named(record.branch)
    kind, seed = KINDS.index(branch.kind), -1 if branch.seed is None else branch.seed
    return record.study, record.level, kind, branch.donor or "", record.replicate, seed
