"""Early-bird tickets: masks that have stopped changing while training goes on (You et al. 2020, 1909.11957)."""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import ge, le
from typing import ClassVar, Literal, get_args

from ltpipe.analysis.overlap import Overlap, compare, total
from ltpipe.pruning.masks import Mask
from ltpipe.pruning.sparsity import Sparsity
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.records import Record

Rule = Literal["hamming", "spearman", "jaccard"]
_LIMITS = {"hamming": 0.1, "spearman": 0.95, "jaccard": 0.9}


@dataclass(frozen=True)
class Detector:
    """When a sequence of masks counts as converged.

    Attributes:
        rule: how the newest mask is compared with earlier ones. `hamming`: distance of at most 0.1 to each of the 4
            previous masks, the rule of You et al. 2020. `spearman`: rank correlation of at least 0.95 with the
            previous mask. `jaccard`: index of at least 0.9 with each of the 4 previous masks.
        threshold: limit of the rule; None takes the rule's own.
        window: number of masks compared, including the newest; None takes the rule's own.
        patience: number of masks in a row for which the rule must hold.
        chance_corrected: measure relative to chance: Hamming / chance, (Jaccard - chance) / (1 - chance). Spearman
            needs no correction. The plain Hamming rule fires for any masks, even random ones, with a sparsity below
            0.05 or above 0.95: they cannot differ more.
    """

    rule: Rule = "hamming"
    threshold: float | None = None
    window: int | None = None
    patience: int = 1
    chance_corrected: bool = False

    def __post_init__(self) -> None:
        """Refuse settings with which the rule never, or always, fires."""
        if self.rule not in get_args(Rule):
            raise UserError(f"rule: '{self.rule}' is not allowed; use {', '.join(get_args(Rule))}")
        if self.window is not None and self.window < 2:
            raise UserError(f"window: {self.window} is not allowed; use 2 or more, to compare masks with others")
        if self.patience < 1:
            raise UserError(f"patience: {self.patience} is not allowed; use 1 or more")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise UserError(f"threshold: {self.threshold} is not allowed; use 0 to 1")

    @property
    def limit(self) -> float:
        """The threshold in effect."""
        return _LIMITS[self.rule] if self.threshold is None else self.threshold

    @property
    def masks(self) -> int:
        """The window in effect."""
        return (2 if self.rule == "spearman" else 5) if self.window is None else self.window

    def value(self, overlap: Overlap) -> float | None:
        """Return the rule's measure; None if it is 0 / 0, which is no evidence of convergence."""
        if self.rule == "spearman":
            return overlap.spearman
        value, chance = (getattr(overlap, name) for name in (self.rule, f"{self.rule}_chance"))
        if value is None or chance is None or not self.chance_corrected:
            return value
        if self.rule == "hamming":
            return value / chance if chance else None
        return (value - chance) / (1 - chance) if chance < 1 else None

    def worst(self, values: Sequence[float | None]) -> float | None:
        """Return the value of a full window furthest from converged; None if it is not full or a value is 0 / 0."""
        known = [value for value in values if value is not None]
        if len(known) < self.masks - 1:
            return None
        return max(known) if self.rule == "hamming" else min(known)

    def holds(self, values: Iterable[float | None]) -> bool:
        """Return whether every value is on the right side of the limit."""
        right = le if self.rule == "hamming" else ge
        return all(value is not None and right(value, self.limit) for value in values)


@dataclass(frozen=True)
class Step:
    """The result for one mask of the sequence.

    Attributes:
        index: index of the mask, from 0.
        values: the rule's measure between this mask and each earlier mask of the window, the nearest first.
        held: number of masks in a row, up to this one, for which the rule held; 0 while the window is not full.
        converged: whether `held` reaches the patience.
    """

    index: int
    values: tuple[float | None, ...]
    held: int
    converged: bool


@dataclass(frozen=True)
class Detection:
    """The index of the first mask at which the sequence had converged (None if it never did), and every step."""

    converged: int | None
    history: tuple[Step, ...]


class Watch:
    """Checks masks as they arrive and keeps no more than one window of them."""

    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        self._earlier: deque[Mask] = deque(maxlen=detector.masks - 1)
        self._seen = self._held = 0

    def look(self, mask: Mask) -> Step:
        """Return the result for the next mask.

        Raises:
            UserError: the mask covers other weights than the previous one.
        """
        detector = self._detector
        values = tuple(detector.value(total(compare(mask, other).values())) for other in reversed(self._earlier))
        full = len(values) == detector.masks - 1
        self._held = self._held + 1 if full and detector.holds(values) else 0
        self._earlier.append(mask)
        self._seen += 1
        return Step(self._seen - 1, values, self._held, self._held >= detector.patience)


def detect(masks: Iterable[Mask], detector: Detector) -> Detection:
    """Find where a sequence of masks, for example one per epoch, has converged."""
    history = tuple(map(Watch(detector).look, masks))
    return Detection(next((step.index for step in history if step.converged), None), history)


@dataclass(frozen=True)
class EarlyBird(Record):
    """Where masks drawn while a dense model trained stopped changing.

    Attributes:
        training, replicate: the dense model's training and replicate.
        sparsity: sparsity of the masks.
        rule, threshold, window, patience, chance_corrected: the `Detector`'s settings in effect.
        iterations: iterations at which masks were drawn.
        distances: for each of them, the rule's worst value in the window, the one furthest from converged (largest for
            `hamming`, smallest for the other rules); None while the window is not full, or if the value is 0 / 0.
        converged: first iteration at which the masks had converged; None if they never did.
    """

    KIND: ClassVar[str] = "early-bird detection"

    training: str
    replicate: int
    sparsity: Sparsity
    rule: str
    threshold: float
    window: int
    patience: int
    chance_corrected: bool
    iterations: tuple[int, ...]
    distances: tuple[float | None, ...]
    converged: int | None

    def __post_init__(self) -> None:
        """Raise ValueError if the fields are inconsistent."""
        if self.rule not in get_args(Rule):
            raise ValueError(f"rule: '{self.rule}' is not allowed; use {', '.join(get_args(Rule))}")
        if len(self.iterations) != len(self.distances):
            raise ValueError("iterations and distances differ in length")
        if self.converged is not None and self.converged not in self.iterations:
            raise ValueError(f"converged: no mask was drawn at {self.converged}")
