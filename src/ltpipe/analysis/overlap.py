"""The overlap of two tickets, and the overlap expected by chance."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod, sqrt

import numpy as np

from ltpipe.pruning.masks import Mask
from ltpipe.runtime.errors import UserError

MEASURES = (
    "weights", "kept_a", "kept_b", "both", "jaccard", "jaccard_chance", "hamming", "hamming_chance", "spearman",
)  # fmt: skip
"""Attributes of an overlap that tables have."""
_BLOCK = 1 << 20  # bytes compared at a time, so that they stay in the processor's cache


@dataclass(frozen=True)
class Overlap:
    """What two masks of the same weights keep: four counts, from which all similarities follow exactly.

    Chance levels are those of two masks that keep as many weights as these, drawn independently and uniformly. They
    then have `weights * d_a * d_b` kept weights in common on average, d being the densities (hypergeometric mean).

    A property is None where it is 0 / 0: the Jaccard index of two empty masks, the correlation with a mask that keeps
    all or nothing.

    Attributes:
        weights: number of weights.
        kept_a, kept_b: weights that each mask keeps.
        both: weights that both keep.
    """

    weights: int
    kept_a: int
    kept_b: int
    both: int

    def __add__(self, other: "Overlap") -> "Overlap":
        """Return the overlap over the weights of both."""
        return Overlap(
            self.weights + other.weights, self.kept_a + other.kept_a, self.kept_b + other.kept_b, self.both + other.both
        )

    @property
    def jaccard(self) -> float | None:
        """Kept by both / kept by any (Jaccard 1901)."""
        return _ratio(self.both, self.kept_a + self.kept_b - self.both)

    @property
    def hamming(self) -> float | None:
        """Share of the weights that exactly one of the masks keeps."""
        return _ratio(self.kept_a + self.kept_b - 2 * self.both, self.weights)

    @property
    def spearman(self) -> float | None:
        """Rank correlation of the masks; ranks of zeros and ones are linear in them, so it is Pearson's phi.

        Its chance level is 0.
        """
        covariance = self.weights * self.both - self.kept_a * self.kept_b
        variances = [kept * (self.weights - kept) for kept in (self.kept_a, self.kept_b)]
        return covariance / (sqrt(variances[0]) * sqrt(variances[1])) if all(variances) else None

    @property
    def both_by_chance(self) -> float:
        """Mean number of weights that both would keep: weights * d_a * d_b."""
        return self.kept_a * self.kept_b / self.weights if self.weights else 0.0

    @property
    def jaccard_chance(self) -> float | None:
        """d_a d_b / (d_a + d_b - d_a d_b); d / (2 - d) for equal densities.

        The index at the mean intersection. The mean of the index lies above it, by less than 1 / weights.
        """
        return _ratio(self.both_by_chance, self.kept_a + self.kept_b - self.both_by_chance)

    @property
    def hamming_chance(self) -> float | None:
        """d_a + d_b - 2 d_a d_b, the exact mean; 2 d (1 - d) for equal densities."""
        return _ratio(self.kept_a + self.kept_b - 2 * self.both_by_chance, self.weights)

    @property
    def measures(self) -> dict[str, float | None]:
        """Counts, similarities and their chance levels, by their column names."""
        return {name: getattr(self, name) for name in MEASURES}


def compare(a: Mask, b: Mask) -> dict[str, Overlap]:
    """Count what two masks have in common, in each tensor, in the masks' canonical order.

    Streams the packed bits; extra memory is one block, whatever the size of the masks.

    Raises:
        UserError: the masks are of other tensors, or of tensors of other shapes.
    """
    check_comparable(a, b)
    return {name: compare_tensor(a, b, name) for name in a.bits}


def check_comparable(a: Mask, b: Mask) -> None:
    """Raise UserError unless two masks are of the same tensors with the same shapes."""
    if dict(a.shapes) != dict(b.shapes):
        names = sorted(set(a.shapes.items()) ^ set(b.shapes.items()))
        raise UserError(
            f"masks of different weights cannot be compared: '{names[0][0]}' is not the same in both; give masks of "
            "one model with the same prunable weights"
        )


def compare_tensor(a: Mask, b: Mask, name: str) -> Overlap:
    """Count what two comparable masks have in common in one tensor."""
    return Overlap(prod(a.shapes[name]), a.kept[name], b.kept[name], _count_both(a.bits[name], b.bits[name]))


def total(parts: Iterable[Overlap]) -> Overlap:
    """The overlap over all tensors."""
    return sum(parts, start=Overlap(0, 0, 0, 0))


def layerwise_chance(parts: Mapping[str, Overlap]) -> dict[str, float | None]:
    """Jaccard index and Hamming distance by chance of masks with these densities in every tensor, by column names.

    If layers differ in density, two criteria that agree only on these densities overlap more than chance at the
    densities of the whole model. Overlap above this level is agreement on single weights.
    """
    whole = total(parts.values())
    both = sum(part.both_by_chance for part in parts.values())
    kept = whole.kept_a + whole.kept_b
    return {
        "jaccard_chance_layerwise": _ratio(both, kept - both),
        "hamming_chance_layerwise": _ratio(kept - 2 * both, whole.weights),
    }


def _count_both(a: np.ndarray, b: np.ndarray) -> int:
    """Count the ones that two arrays of packed bits share."""
    return sum(
        _ones(a[start : start + _BLOCK], b[start : start + _BLOCK], np.uint64) for start in range(0, a.size, _BLOCK)
    )


def _ones(a: np.ndarray, b: np.ndarray, word: type[np.unsignedinteger]) -> int:
    whole = a.size // word().itemsize * word().itemsize
    ones = int(np.bitwise_count(a[:whole].view(word) & b[:whole].view(word)).sum(dtype=np.int64))
    return ones if whole == a.size else ones + _ones(a[whole:], b[whole:], np.uint8)


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
