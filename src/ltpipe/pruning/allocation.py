"""The interface of layer allocations: how many weights each tensor loses. Exact arithmetic throughout.

A new allocation is one file in the folder `allocations`: a function from a `Request` to one count per tensor, named in
the last line. The file `my_rule.py` provides the scopes `my-rule` and `my-rule-row` in the configuration.

Counts are in tensor order, with 0 <= count <= size and a sum of exactly `prune`. Ideal counts are fractions;
`apportion` rounds them, and `by_shares` keeps them within the tensors' sizes.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import fsum
from typing import Any

import numpy as np

from ltpipe.checkpoints.tensorfile import in_chunks
from ltpipe.pruning import matrix_kernels
from ltpipe.pruning.allocations import allocation_named
from ltpipe.pruning.histogram import KeyHistogram
from ltpipe.pruning.layout import Layout
from ltpipe.pruning.scores import COPIED_CHUNK, RankKeys
from ltpipe.pruning.sparsity import Sparsity
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.options import NoOptions


@dataclass(frozen=True)
class Request:
    """A request to an allocation, with the data it may use.

    Attributes:
        asked: average sparsity over all prunable weights.
        keys: rank keys of all prunable weights.
        histogram: histogram of these keys.
        layout: the model's layout.
        options: the allocation's options.
    """

    asked: Sparsity
    keys: RankKeys
    histogram: KeyHistogram
    layout: Layout
    options: Any = NoOptions()  # noqa: RUF009

    @property
    def sizes(self) -> Sequence[int]:
        """Number of weights in each tensor."""
        return self.keys.sizes

    @property
    def sparsity(self) -> Fraction:
        """The requested sparsity as an exact number."""
        return self.asked.fraction

    @cached_property
    def prune(self) -> int:
        """Number of weights to prune in all tensors together."""
        return self.asked.count(sum(self.sizes))

    @property
    def stacks(self) -> list[tuple[int, ...]]:
        """Shape of each tensor, preceded by its number of matrices: [experts, out, in, …]."""
        return [self.layout.stack(name, shape) for name, shape in zip(self.keys.names, self.keys.shapes, strict=True)]

    @property
    def blocks(self) -> list[str | None]:
        """Index of each tensor's block in the model; None outside the blocks."""
        return [self.layout.block(name) for name in self.keys.names]


@dataclass(frozen=True)
class Allocation:
    """A layer allocation.

    Attributes:
        counts: function that returns how many weights each tensor loses.
        copies: number of copies of the largest tensor's keys in memory, for the plan; 0 if it streams them.
        options: dataclass of its options, as in `ltpipe.runtime.options`.
        nested: whether no tensor ever loses fewer weights at a larger sparsity.
    """

    counts: Callable[[Request], list[int]]
    copies: int = 0
    options: type = NoOptions
    nested: bool = False


def allocate(name: str, request: Request) -> list[int]:
    """Return how many weights each tensor loses.

    Raises:
        UserError: the allocation's counts do not fit the request.
    """
    counts = allocation_named(name).counts(request)
    inside = len(counts) == len(request.sizes) and all(
        0 <= count <= size for count, size in zip(counts, request.sizes, strict=True)
    )
    if not inside or sum(counts) != request.prune:
        raise UserError(
            f"allocation '{name}' prunes {sum(counts)} weights in {len(counts)} tensors; expected {request.prune} in "
            f"{len(request.sizes)}, no more than each has"
        )
    return counts


def score_values(keys: RankKeys, name: str) -> Iterator[np.ndarray]:
    """Yield the scores of a tensor, float32 [n], in pieces small enough to convert."""
    for chunk in keys.chunks(name):
        yield from map(keys.values, in_chunks(chunk, COPIED_CHUNK))


def score_sums(keys: RankKeys) -> list[float]:
    """Return the sum of the scores of each tensor, from one pass."""
    return [fsum(matrix_kernels.total(values) for values in score_values(keys, name)) for name in keys.names]


def apportion(quotas: Sequence[Fraction], total: int) -> list[int]:
    """Round fractions to integers with the given sum: all down, then the largest remainders up.

    Among equal remainders the earlier is rounded up: as everywhere, the earlier loses first among ties.

    Args:
        quotas: not negative; their sum differs from `total` by less than one.
        total: sum of the result.
    """
    counts = [quota.numerator // quota.denominator for quota in quotas]
    by_remainder = sorted(range(len(quotas)), key=lambda index: (counts[index] - quotas[index], index))
    for index in by_remainder[: total - sum(counts)]:
        counts[index] += 1
    return counts


def by_shares(sizes: Sequence[int], shares: Sequence[Fraction | float], prune: int) -> list[int]:
    """Return pruning counts that keep weights in proportion to `shares`, but never more than a tensor has.

    A tensor whose share exceeds its size is kept whole, and the rest is scaled up, until all fit. If only shares of
    zero are left, the remaining weights to keep are distributed in proportion to size.

    Args:
        sizes: number of weights in each tensor.
        shares: shares of the kept weights, not negative, in any unit.
        prune: number of weights to prune.
    """
    parts = [Fraction(share) for share in shares]
    keep: dict[int, Fraction] = {}
    open_ = [index for index, size in enumerate(sizes) if size]
    left = Fraction(sum(sizes) - prune)
    while open_:
        whole = sum((parts[index] for index in open_), Fraction())
        if whole == 0:
            parts = [Fraction(size) for size in sizes]
            whole = sum((parts[index] for index in open_), Fraction())
        scale = left / whole
        full = [index for index in open_ if parts[index] * scale > sizes[index]]
        if not full:
            keep |= {index: parts[index] * scale for index in open_}
            break
        keep |= {index: Fraction(sizes[index]) for index in full}
        left -= sum(sizes[index] for index in full)
        open_ = [index for index in open_ if index not in keep]
    return apportion([size - keep.get(index, Fraction()) for index, size in enumerate(sizes)], prune)
