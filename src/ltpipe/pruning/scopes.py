"""Scopes: which weights compete with each other, and how many of them go."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from ltpipe.runtime.errors import UserError


@dataclass(frozen=True)
class Group:
    """Tensors (by index) that are ranked together, and the number of weights to prune among them."""

    members: tuple[int, ...]
    prune: int


def prune_count(sparsity: str | float, total: int) -> int:
    """`round(sparsity * total)` in exact arithmetic: the decimal fraction as written, halves to even.

    Raises:
        UserError: `sparsity` is not a number from 0 to 1.
    """
    try:
        fraction = Fraction(Decimal(str(sparsity)))
    except (ArithmeticError, ValueError):
        raise UserError(f"sparsity {sparsity!r} is not a number from 0 to 1") from None
    if not 0 <= fraction <= 1:
        raise UserError(f"sparsity {sparsity} is out of range; allowed is 0 to 1")
    return round(fraction * total)


def _global(sparsity: str | float, sizes: Sequence[int]) -> list[Group]:
    return [Group(tuple(range(len(sizes))), prune_count(sparsity, sum(sizes)))]


def _layer(sparsity: str | float, sizes: Sequence[int]) -> list[Group]:
    return [Group((index,), prune_count(sparsity, size)) for index, size in enumerate(sizes)]


SCOPES = {"global": _global, "layer": _layer}
"""`global` ranks all prunable weights together; `layer` prunes the same fraction of every tensor."""


def groups(scope: str, sparsity: str | float, sizes: Sequence[int]) -> list[Group]:
    """The competitions that `scope` sets up among tensors of the given sizes.

    Raises:
        UserError: there is no such scope, or `sparsity` is out of range.
    """
    if scope not in SCOPES:
        raise UserError(f"scope '{scope}' is unknown; known are {', '.join(sorted(SCOPES))}")
    return SCOPES[scope](sparsity, sizes)
