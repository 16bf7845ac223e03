"""Early-bird tickets: masks that have stopped changing while training goes on (You et al. 2020, 1909.11957)."""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from ltpipe.analysis.overlap import Overlap, compare, total
from ltpipe.pruning.masks import Mask
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.records import Record

Rule = Literal["hamming", "spearman", "jaccard"]


@dataclass(frozen=True)
class Detector:
    """When a sequence of masks counts as converged.

    Attributes:
        rule: what the newest mask is compared by. `hamming`: at most 0.1 to each of the 4 masks before it, the rule
            of You et al. 2020. `spearman`: a rank correlation of at least 0.95 with the mask before it. `jaccard`: an
            index of at least 0.9 with each of the 4 masks before it.
        threshold: another limit; None takes the rule's.
        window: another number of masks, the newest included; None takes the rule's.
        patience: the rule has to hold for so many masks in a row.
        chance_corrected: measure the distance from chance: Hamming / chance, (Jaccard - chance) / (1 - chance).
            Spearman is corrected as it is. The plain Hamming rule fires for any masks, random ones too, whose
            sparsity lies below 0.05 or above 0.95: they cannot differ more.
    """

    rule: Rule = "hamming"
    threshold: float | None = None
    window: int | None = None
    patience: int = 1
    chance_corrected: bool = False

    def __post_init__(self) -> None:
        """Refuse what could never, or always, fire."""
        if self.rule not in get_args(Rule):
            raise UserError(f"rule: '{self.rule}'; allowed are {', '.join(get_args(Rule))}")
        if self.window is not None and self.window < 2:
            raise UserError(f"window: {self.window} masks; a mask is compared with others, allowed is 2 or more")
        if self.patience < 1:
            raise UserError(f"patience: {self.patience} masks in a row; allowed is 1 or more")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise UserError(f"threshold: {self.threshold}; allowed is 0 to 1")

    @property
    def limit(self) -> float:
        """The threshold that holds."""
        return (
            {"hamming": 0.1, "spearman": 0.95, "jaccard": 0.9}[self.rule] if self.threshold is None else self.threshold
        )

    @property
    def masks(self) -> int:
        """The window that holds."""
        return {"hamming": 5, "spearman": 2, "jaccard": 5}[self.rule] if self.window is None else self.window

    def value(self, overlap: Overlap) -> float | None:
        """What the rule looks at; None where it is 0 / 0, which is no evidence of convergence."""
        if self.rule == "spearman":
            return overlap.spearman
        value, chance = (
            (overlap.hamming, overlap.hamming_by_chance)
            if self.rule == "hamming"
            else (overlap.jaccard, overlap.jaccard_by_chance)
        )
        if value is None or chance is None or not self.chance_corrected:
            return value
        if self.rule == "hamming":
            return value / chance if chance else None
        return (value - chance) / (1 - chance) if chance < 1 else None

    def worst(self, values: Sequence[float | None]) -> float | None:
        """The value of a full window that is furthest from converged; None if it is not full or one is 0 / 0."""
        known = [value for value in values if value is not None]
        if len(known) < self.masks - 1:
            return None
        return max(known) if self.rule == "hamming" else min(known)

    def holds(self, values: Iterable[float | None]) -> bool:
        """Whether every value is on the right side of the limit."""
        if self.rule == "hamming":
            return all(value is not None and value <= self.limit for value in values)
        return all(value is not None and value >= self.limit for value in values)


@dataclass(frozen=True)
class Step:
    """What one mask of the sequence showed.

    Attributes:
        index: of the mask, from 0.
        values: the rule's metric to each mask of the window before it, the nearest first.
        held: masks in a row, up to this one, for which the rule held; 0 while the window is not full.
        converged: whether these are as many as patience asks for.
    """

    index: int
    values: tuple[float | None, ...]
    held: int
    converged: bool


@dataclass(frozen=True)
class Detection:
    """The index of the first mask at which the sequence has converged, None if it never has, and every step."""

    converged: int | None
    history: tuple[Step, ...]


class Watch:
    """Looks at masks as they come; no more than a window of them is kept."""

    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        self._earlier: deque[Mask] = deque(maxlen=detector.masks - 1)
        self._seen = self._held = 0

    def look(self, mask: Mask) -> Step:
        """What the next mask shows.

        Raises:
            UserError: it is of other weights than the one before it.
        """
        detector = self._detector
        values = tuple(detector.value(total(compare(mask, other).values())) for other in reversed(self._earlier))
        full = len(values) == detector.masks - 1
        self._held = self._held + 1 if full and detector.holds(values) else 0
        self._earlier.append(mask)
        self._seen += 1
        return Step(self._seen - 1, values, self._held, self._held >= detector.patience)


def detect(masks: Iterable[Mask], detector: Detector) -> Detection:
    """Find where a sequence of masks, one an epoch for example, has converged."""
    watch = Watch(detector)
    history = tuple(map(watch.look, masks))
    return Detection(next((step.index for step in history if step.converged), None), history)


@dataclass(frozen=True)
class EarlyBird(Record):
    """Where masks that were drawn while a dense model trained have stopped changing.

    Attributes:
        study, replicate: of the dense model.
        sparsity: of the masks, as it stands in the artefact's name.
        rule, threshold, window, patience, chance_corrected: of the `Detector`, as they held.
        iterations: where masks were drawn.
        distances: at each of them the rule's worst value in the window, the one furthest from converged (largest for
            `hamming`, smallest for the other rules); None while the window is not full, or where it is 0 / 0.
        converged: the first iteration at which the masks had converged; None if they never had.
    """

    KIND: ClassVar[str] = "early-bird detection"

    study: str
    replicate: int
    sparsity: str
    rule: str
    threshold: float
    window: int
    patience: int
    chance_corrected: bool
    iterations: tuple[int, ...]
    distances: tuple[float | None, ...]
    converged: int | None

    def __post_init__(self) -> None:
        """Raise ValueError where the fields cannot be those of one detection."""
        if self.rule not in get_args(Rule):
            raise ValueError(f"rule: '{self.rule}'; allowed are {', '.join(get_args(Rule))}")
        if not 0 <= float(self.sparsity) <= 1:
            raise ValueError(f"sparsity: {self.sparsity}")
        if len(self.iterations) != len(self.distances):
            raise ValueError("iterations and distances differ in length")
        if self.converged is not None and self.converged not in self.iterations:
            raise ValueError(f"converged: no mask was drawn at {self.converged}")
