"""The results of one training, as a small JSON file."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ltpipe.runtime.records import Record

TICKET = "ticket"
NUMBERED = ("reinitialised", "shuffled", "random", "order")
"""Branches that a level can have several of, for example `shuffled-1` and `shuffled-2`."""
TRANSPLANTED = "transplanted"
SINGLE = (TICKET, "gradual", "distilled")
KINDS = (TICKET, *NUMBERED, *SINGLE[1:], TRANSPLANTED)
"""All kinds of branches, in the order that reports use."""


@dataclass(frozen=True)
class Branch:
    """A way to train at a level's density.

    Attributes:
        kind: one of `KINDS`; `ticket` at level 0 is the dense model.
        seed: the control's number; None for kinds that a level has once.
        donor: training whose mask was transplanted; None for other kinds.
    """

    kind: str
    seed: int | None = None
    donor: str | None = None

    @classmethod
    def named(cls, name: str) -> "Branch":
        """Parse a branch's name in artefact paths, for example `reinitialised-2` or `transplanted-lenet`.

        Raises:
            ValueError: there is no such branch.
        """
        kind, _, rest = name.partition("-")
        if kind == TRANSPLANTED and rest:
            return cls(kind, donor=rest)
        if kind in NUMBERED and rest.isascii() and rest.isdigit():
            return cls(kind, seed=int(rest))
        if name in SINGLE:
            return cls(kind)
        kinds = [f"{each}-N" if each in NUMBERED else each for each in KINDS[:-1]]
        raise ValueError(f"branch: '{name}' is not allowed; use {', '.join(kinds)} or {TRANSPLANTED}-TRAINING")


@dataclass(frozen=True)
class LearningRecord(Record):
    """The results of a training.

    Attributes:
        training, replicate, level, branch: what was trained; `ticket` at level 0 is the dense model.
        iterations, validation_losses, validation_accuracies: the validation curve; nats per label, fractions.
        early_stop_iteration: the iteration with the smallest validation loss, the first of several.
        test_loss, test_accuracy: with the weights at that iteration; nats per label, a fraction.
        final_test_loss, final_test_accuracy: the same with the final weights.
        test_majority: share of the most frequent test label, the accuracy of always predicting it.
        kept, total: prunable weights kept and in total.
        seconds: wall time since the training was last started.
        provenance: versions, commit, input hashes, settings.
    """

    KIND: ClassVar[str] = "learning record"

    training: str
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
        """Raise ValueError if the fields do not describe one training."""
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
        """Summarise the record in one line."""
        return (
            f"{self.training} {self.replicate}, level {self.level}, {self.branch}: {self.weights_remaining:.2%} of "
            f"weights, test accuracy {self.test_accuracy:.2%} after {self.early_stop_iteration} iterations"
        )

    @property
    def weights_remaining(self) -> float:
        """Kept / prunable weights; 1 for the dense model."""
        return self.kept / self.total

    @property
    def validation_loss(self) -> float:
        """Validation loss at the early-stop iteration, nats per label."""
        return self.validation_losses[self._early_stop]

    @property
    def validation_accuracy(self) -> float:
        """Validation accuracy at the early-stop iteration, a fraction."""
        return self.validation_accuracies[self._early_stop]

    @property
    def inputs(self) -> dict[str, str]:
        """Fingerprints of the training's inputs, by kind; empty if the provenance has none."""
        found = self.provenance.get("inputs")
        return {name: str(value) for name, value in found.items()} if isinstance(found, dict) else {}

    @property
    def rewind_step(self) -> int | None:
        """Step k of the rewinding point, from `rewind_step` in the provenance's settings; None if missing."""
        settings = self.provenance.get("settings")
        step = settings.get("rewind_step") if isinstance(settings, dict) else None
        return step if isinstance(step, int) else None

    @property
    def _early_stop(self) -> int:
        return self.validation_losses.index(min(self.validation_losses))
