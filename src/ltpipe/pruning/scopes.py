"""Scopes: which weights compete with each other, how many of them go, and in what pattern.

docs/scopes.md has the definitions, formulas and sources. A scope is a name in the configuration and a plain value here;
`by_scope` turns it into a mask. A new way to share the sparsity out over tensors is one file in `allocations`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Literal

from ltpipe.pruning.allocations import allocation_names
from ltpipe.runtime.errors import UserError

_DECIMALS = 40
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,9})?")


@dataclass(frozen=True)
class Unstructured:
    """The smallest weights go, of all tensors together or of each."""

    competition: Literal["global", "layer"]


@dataclass(frozen=True)
class Allocated:
    """The smallest of each tensor go, as many as an allocation says."""

    allocation: str


@dataclass(frozen=True)
class Rows:
    """The smallest of each output row go: the same fraction of every row, or what an allocation says, spread evenly."""

    allocation: str | None


@dataclass(frozen=True)
class NOfM:
    """Of every `group` consecutive weights along the input dimension the `keep` largest stay."""

    keep: int
    group: int

    @property
    def sparsity(self) -> float:
        """The only one that the pattern has: the float nearest to 1 - keep / group."""
        return (self.group - self.keep) / self.group


@dataclass(frozen=True)
class Tiles:
    """Tiles of `height` output rows and `width` input columns go whole; all tiles compete."""

    height: int
    width: int


@dataclass(frozen=True)
class Units:
    """Whole units of the architecture go, attention heads for example: `ltpipe.pruning.units` cuts these."""

    kind: Literal["heads", "channels", "blocks"]


Scope = Unstructured | Allocated | Rows | NOfM | Tiles | Units

_N_OF_M = re.compile(r"([1-9]\d*)of([1-9]\d*)")
_TILES = re.compile(r"block([1-9]\d*)x([1-9]\d*)")


def scopes() -> dict[str, Scope]:
    """Scopes with a name of their own; `scope_named` knows those with numbers in their names too."""
    allocations = allocation_names()
    return {
        "global": Unstructured("global"),
        "layer": Unstructured("layer"),
        "row": Rows(None),
        **{name: Allocated(name) for name in allocations},
        **{f"{name}-row": Rows(name) for name in allocations},
        "heads": Units("heads"),
        "channels": Units("channels"),
        "blocks": Units("blocks"),
    }


def scope_named(name: str) -> Scope:
    """Look a scope up.

    Raises:
        UserError: there is none of that name.
    """
    if name in (named := scopes()):
        return named[name]
    if found := _TILES.fullmatch(name):
        return Tiles(int(found[1]), int(found[2]))
    if (found := _N_OF_M.fullmatch(name)) and int(found[1]) < int(found[2]):
        return NOfM(int(found[1]), int(found[2]))
    raise UserError(
        f"scope '{name}' is unknown; allowed: {', '.join(named)}, NofM with 0 < N < M (2of4, 4of8) "
        "and blockHxW (block16x16)"
    )


def own_sparsity(name: str) -> float | None:
    """The one sparsity of a scope that has only one, None for every other scope.

    Raises:
        UserError: there is no scope of that name.
    """
    scope = scope_named(name)
    return scope.sparsity if isinstance(scope, NOfM) else None


def has_own_sparsity(name: str) -> bool:
    """Whether a scope has one sparsity only, so that its tickets are no curve; names of imported masks have not."""
    try:
        return own_sparsity(name) is not None
    except UserError:
        return False


@dataclass(frozen=True)
class Group:
    """Tensors (by index) that are ranked together, and the number of weights to prune among them."""

    members: tuple[int, ...]
    prune: int


def exact_fraction(sparsity: str | float) -> Fraction:
    """The decimal fraction as written.

    Raises:
        UserError: `sparsity` is not a number from 0 to 1.
    """
    if not _NUMBER.fullmatch(str(sparsity)):  # Decimal takes other digits and underscores too
        raise UserError(f"sparsity {sparsity!r} is not a number from 0 to 1")
    decimal = Decimal(str(sparsity))
    if not 0 <= decimal <= 1:
        raise UserError(f"sparsity {sparsity} is out of range; allowed is 0 to 1")
    if decimal.as_tuple().exponent < -_DECIMALS:  # names of files, and whole numbers, of so many digits
        raise UserError(f"sparsity {sparsity} has too many decimals; allowed are {_DECIMALS}")
    return Fraction(decimal)


def prune_count(sparsity: str | float, total: int) -> int:
    """`round(sparsity * total)` in exact arithmetic, halves to even.

    Raises:
        UserError: `sparsity` is not a number from 0 to 1.
    """
    return round(exact_fraction(sparsity) * total)


def groups(scope: str, sparsity: str | float, sizes: Sequence[int]) -> list[Group]:
    """The competitions that `global` or `layer` sets up among tensors of the given sizes.

    Raises:
        UserError: `sparsity` is out of range, or the competitions of the scope do not follow from sizes.
    """
    if scope == "global":
        return [Group(tuple(range(len(sizes))), prune_count(sparsity, sum(sizes)))]
    if scope == "layer":
        return [Group((index,), prune_count(sparsity, size)) for index, size in enumerate(sizes)]
    scope_named(scope)
    raise UserError(f"scope '{scope}' looks at more than sizes; allowed here: global, layer")
