"""What one training showed, as a small JSON file."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ltpipe.runtime.records import Record

TICKET = "ticket"
NUMBERED = ("reinitialised", "shuffled", "random", "order")
"""Branches of which a level can have several, `shuffled-1` and `shuffled-2` for example."""
TRANSPLANTED = "transplanted"
SINGLE = (TICKET, "gradual", "distilled")
KINDS = (TICKET, *NUMBERED, *SINGLE[1:], TRANSPLANTED)
"""All kinds of branches, in the order of reports."""


@dataclass(frozen=True)
class Branch:
    """A way to train at a level's density.

    Attributes:
        kind: one of `KINDS`; `ticket` at level 0 is the dense model.
        seed: number of a control; None for kinds of which a level has one.
        donor: study whose mask was transplanted; None for other kinds.
    """

    kind: str
    seed: int | None = None
    donor: str | None = None

    @classmethod
    def named(cls, name: str) -> "Branch":
        """The branch that artefact names call `name`, `reinitialised-2` or `transplanted-lenet` for example.

        Raises:
            ValueError: no branch is called so.
        """
        kind, _, rest = name.partition("-")
        if kind == TRANSPLANTED and rest:
            return cls(kind, donor=rest)
        if kind in NUMBERED and rest.isascii() and rest.isdigit():
            return cls(kind, seed=int(rest))
        if name in SINGLE:
            return cls(kind)
        raise ValueError(f"branch: '{name}'; allowed are {', '.join(KINDS)}, with a number or a study after some")


@dataclass(frozen=True)
class LearningRecord(Record):
    """What a training showed.

    Attributes:
        study, replicate, level, branch: which training; `ticket` of level 0 is the dense model.
        iterations, validation_losses, validation_accuracies: the validation curve; nats a label, fractions.
        early_stop_iteration: where the validation loss is smallest, the first if there are several.
        test_loss, test_accuracy: of the weights at that iteration; nats a label, a fraction.
        final_test_loss, final_test_accuracy: of the weights at the end.
        test_majority: share of the most frequent label of the test data, which is the accuracy of naming it always.
        kept, total: prunable weights kept, and in all.
        seconds: wall time of the training since it was last started.
        provenance: versions, commit, input hashes, settings.
    """

    KIND: ClassVar[str] = "learning record"

    study: str
    replicate: int
    level: int
    branch: str
    iterations: tuple[int, ...]
    validation_losses: tuple[float, ...]
    validation_accuracies: tuple[float, ...]
    early_stop_iteration: int
    test_loss: float
    test_accuracy: float
    final_test_loss: float
    final_test_accuracy: float
    test_majority: float
    kept: int
    total: int
    seconds: float
    provenance: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Raise ValueError where the fields cannot be those of one training."""
        Branch.named(self.branch)
        curve = (self.iterations, self.validation_losses, self.validation_accuracies)
        if len({len(part) for part in curve}) != 1:
            raise ValueError("the parts of the validation curve differ in length")
        if not self.iterations or self.early_stop_iteration != self.iterations[self._early_stop]:
            raise ValueError(f"early_stop_iteration: {self.early_stop_iteration} is not the first minimum of the curve")
        accuracies = (*self.validation_accuracies, self.test_accuracy, self.final_test_accuracy, self.test_majority)
        if not all(0 <= accuracy <= 1 for accuracy in accuracies):
            raise ValueError("an accuracy is not between 0 and 1")
        if not 0 <= self.kept <= self.total or not self.total:
            raise ValueError(f"kept: {self.kept} of {self.total} prunable weights")

    def __str__(self) -> str:
        """One line."""
        return (
            f"{self.study} {self.replicate}, level {self.level}, {self.branch}: {self.weights_remaining:.2%} of "
            f"weights, test accuracy {self.test_accuracy:.2%} after {self.early_stop_iteration} iterations"
        )

    @property
    def weights_remaining(self) -> float:
        """Kept / prunable weights; 1 for the dense model."""
        return self.kept / self.total

    @property
    def validation_loss(self) -> float:
        """At the early-stop iteration, nats a label."""
        return self.validation_losses[self._early_stop]

    @property
    def validation_accuracy(self) -> float:
        """At the early-stop iteration, a fraction."""
        return self.validation_accuracies[self._early_stop]

    @property
    def inputs(self) -> dict[str, str]:
        """Fingerprints of what the training was made from, by what it is; empty where the provenance has none."""
        found = self.provenance.get("inputs")
        return {name: str(value) for name, value in found.items()} if isinstance(found, dict) else {}

    @property
    def rewind_step(self) -> int | None:
        """Step k of the rewinding point: `rewind_step` of the provenance's settings; None where it is not there."""
        settings = self.provenance.get("settings")
        step = settings.get("rewind_step") if isinstance(settings, dict) else None
        return step if isinstance(step, int) else None

    @property
    def _early_stop(self) -> int:
        return self.validation_losses.index(min(self.validation_losses))
