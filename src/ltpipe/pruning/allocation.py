"""What a layer allocation is like: how many weights each tensor loses. Exact arithmetic throughout.

A new allocation is one file in the folder `allocations`: a function from a `Request` to one count a tensor, named in
the last line. The file `my_rule.py` gives the scopes `my-rule` and `my-rule-row` of the configuration.

Counts are in the order of the tensors, with 0 <= count <= size and a sum of exactly `prune`. Ideal counts are
fractions; `apportion` rounds them, and `by_shares` keeps them inside the tensors.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import fsum
from typing import Any

import numpy as np

from ltpipe.pruning import matrix_kernels
from ltpipe.pruning.allocations import allocation_named
from ltpipe.pruning.histogram import KeyHistogram
from ltpipe.pruning.layout import Layout
from ltpipe.pruning.scores import COPIED_BLOCK, RankKeys
from ltpipe.pruning.sparsity import Sparsity
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.options import NoOptions


@dataclass(frozen=True)
class Request:
    """What is asked of an allocation, and what it may look at.

    Attributes:
        asked: average sparsity over all prunable weights.
        keys: of all prunable weights.
        histogram: of these keys.
        layout: of the model.
        options: of the allocation's type.
    """

    asked: Sparsity
    keys: RankKeys
    histogram: KeyHistogram
    layout: Layout
    options: Any = NoOptions()  # noqa: RUF009

    @property
    def sizes(self) -> Sequence[int]:
        """Weights of each tensor."""
        return self.keys.sizes

    @property
    def sparsity(self) -> Fraction:
        """The same as an exact number."""
        return self.asked.fraction

    @cached_property
    def prune(self) -> int:
        """Number of weights that all tensors lose together."""
        return self.asked.count(sum(self.sizes))

    @property
    def stacks(self) -> list[tuple[int, ...]]:
        """Shape of each tensor with the number of its matrices before it: [experts, out, in, …]."""
        return [self.layout.stack(name, shape) for name, shape in zip(self.keys.names, self.keys.shapes, strict=True)]

    @property
    def blocks(self) -> list[str | None]:
        """Index of the block of the model that each tensor is in; None outside the blocks."""
        return [self.layout.block(name) for name in self.keys.names]


@dataclass(frozen=True)
class Allocation:
    """A layer allocation.

    Attributes:
        counts: how many weights each tensor loses.
        copies: of the largest tensor's keys that it holds in memory, for the plan; 0 if it streams them.
        options: dataclass of what can be chosen, as in `ltpipe.runtime.options`.
        nested: whether no tensor ever loses less at a larger sparsity.
    """

    counts: Callable[[Request], list[int]]
    copies: int = 0
    options: type = NoOptions
    nested: bool = False


def allocate(name: str, request: Request) -> list[int]:
    """How many weights each tensor loses.

    Raises:
        UserError: the allocation does not keep to what it was asked.
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
    """Scores of a tensor, float32 [n], in pieces small enough to be converted."""
    for block in keys.blocks(name):
        for start in range(0, block.size, COPIED_BLOCK):
            yield keys.values(block[start : start + COPIED_BLOCK])


def score_sums(keys: RankKeys) -> list[float]:
    """Sum of the scores of each tensor, from one pass."""
    return [fsum(matrix_kernels.total(values) for values in score_values(keys, name)) for name in keys.names]


def apportion(quotas: Sequence[Fraction], total: int) -> list[int]:
    """Round fractions to whole numbers of the given sum: all down, then the largest remainders up.

    Among equal remainders the earlier goes up: as everywhere, among equals the earlier loses first.

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
    """Keep weights in proportion to `shares`, but never more than a tensor has.

    A tensor whose share is more than its size is kept whole, and the rest is scaled up, until all fit. If nothing but
    shares of zero is left, what remains to be kept is kept in proportion to size.

    Args:
        sizes: weights of each tensor.
        shares: of the kept weights, not negative, in any unit.
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
