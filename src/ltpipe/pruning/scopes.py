"""Scopes: which weights compete with each other, how many of them are pruned, and in what pattern.

docs/scopes.md has the definitions, formulas and sources. A scope is a name in the configuration and a plain value here;
`by_scope` turns it into a mask. A new way to distribute sparsity over tensors is one file in `allocations`.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from ltpipe.pruning.allocations import allocation_named, allocation_names
from ltpipe.pruning.sparsity import Sparsity
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.options import NoOptions

Each = Literal["mask", "tensor", "row", "run", "tile", "unit"]
"""Where a promised number is pruned: in all weights together (`mask`), in each tensor, row, run (neighbours along the
input dimension) or tile, or among the units (pruned whole) that compete."""


@dataclass(frozen=True)
class Promise:
    """A count that every mask of a scope must have: the number pruned in each thing of a kind.

    Attributes:
        each: the kind of thing.
        pruned: function from a number of weights, tiles or units to the number pruned.
        length: length of a run.
    """

    each: Each
    pruned: Callable[[int], int]
    length: int = 0


@dataclass(frozen=True)
class EvenRows:
    """The promise that the rows of a tensor lose the same number of weights, give or take one."""


class Scope:
    """Which weights compete, and how many of them are pruned.

    Attributes:
        empties: whether the scope is meant to empty rows, heads or blocks.
        each: where exactly the requested sparsity is pruned, unless the scope promises something else.
    """

    empties: ClassVar[bool] = False
    each: ClassVar[Each] = "mask"

    @property
    def options(self) -> type:
        """Dataclass of the scope's options, as in `ltpipe.runtime.options`."""
        return NoOptions

    @property
    def nested(self) -> bool:
        """Whether a mask only keeps weights that masks of smaller sparsity keep too."""
        return True

    @property
    def own_sparsity(self) -> Sparsity | None:
        """The sparsity of a scope that has only one, so that its tickets are not a curve; otherwise None."""
        return None

    def promises(self, sparsity: Sparsity, options: Any) -> tuple[Promise | EvenRows, ...]:  # noqa: ARG002
        """Return the promises that every mask of the scope keeps.

        Args:
            sparsity: the requested sparsity.
            options: the scope's options.
        """
        return (Promise(self.each, sparsity.count),)


@dataclass(frozen=True)
class Unstructured(Scope):
    """Prunes the smallest weights of all tensors together, or of each."""

    competition: Literal["global", "layer"]

    def promises(self, sparsity: Sparsity, options: Any) -> tuple[Promise, ...]:  # noqa: ARG002
        """See `Scope`."""
        return (Promise("mask" if self.competition == "global" else "tensor", sparsity.count),)


@dataclass(frozen=True)
class Allocated(Scope):
    """Prunes the smallest weights of each tensor, as many as an allocation says."""

    allocation: str

    @property
    def options(self) -> type:
        """The allocation's options."""
        return allocation_named(self.allocation).options

    @property
    def nested(self) -> bool:
        """Whether the allocation is nested."""
        return allocation_named(self.allocation).nested


@dataclass(frozen=True)
class AllocatedRows(Allocated):
    """Prunes the smallest weights of each output row: as many per tensor as an allocation says, spread evenly."""

    def promises(self, sparsity: Sparsity, options: Any) -> tuple[Promise | EvenRows, ...]:
        """See `Scope`."""
        return (*super().promises(sparsity, options), EvenRows())


@dataclass(frozen=True)
class RowOptions:
    """Options of scope row.

    Attributes:
        counts: `exact`, round(s · columns) of every row, or `truncated`, the integer part of the product in float64, as
            in Wanda's code (Sun et al. 2024, 2306.11695).
    """

    counts: Literal["exact", "truncated"] = "exact"


@dataclass(frozen=True)
class Rows(Scope):
    """Prunes the smallest weights of each output row, the same fraction of every row."""

    options = RowOptions

    def promises(self, sparsity: Sparsity, options: RowOptions) -> tuple[Promise, ...]:
        """See `Scope`."""
        return (Promise("row", lambda columns: self.pruned(sparsity, columns, options)),)

    def pruned(self, sparsity: Sparsity, columns: int, options: RowOptions) -> int:
        """Return how many weights of a row are pruned."""
        return sparsity.count(columns) if options.counts == "exact" else int(columns * float(sparsity))


@dataclass(frozen=True)
class NOfM(Scope):
    """Keeps the `keep` largest of every `group` consecutive weights along the input dimension."""

    keep: int
    group: int

    @property
    def own_sparsity(self) -> Sparsity:
        """The float nearest to 1 - keep / group."""
        return Sparsity.of((self.group - self.keep) / self.group)

    def promises(self, sparsity: Sparsity, options: Any) -> tuple[Promise, ...]:  # noqa: ARG002
        """See `Scope`."""
        return (Promise("run", lambda group: group - self.keep, self.group),)


@dataclass(frozen=True)
class Tiles(Scope):
    """Prunes whole tiles of `height` output rows and `width` input columns; all tiles compete."""

    height: int
    width: int
    empties: ClassVar[bool] = True
    each: ClassVar[Each] = "tile"


@dataclass(frozen=True)
class Units(Scope):
    """Prunes whole units of the architecture, for example attention heads; see `ltpipe.pruning.units`."""

    kind: Literal["heads", "channels", "blocks"]
    empties: ClassVar[bool] = True
    each: ClassVar[Each] = "unit"

    def competitions(self, units: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Return the competitions: all blocks of the model, or the heads or channels of each block.

        Args:
            units: for each block of the model, one value per unit.
        """
        return [np.concatenate(units)] if self.kind == "blocks" else list(units)


_N_OF_M = re.compile(r"([1-9]\d*)of([1-9]\d*)")
_TILES = re.compile(r"block([1-9]\d*)x([1-9]\d*)")


STRUCTURED: dict[str, Units] = {
    "heads": Units("heads"),
    "channels": Units("channels"),
    "blocks": Units("blocks"),
}
"""The scopes that prune whole units, by name."""

AnyScope = Unstructured | Allocated | Rows | NOfM | Tiles | Units
"""All kinds of scopes; the type checker sees a kind that a match over them forgets."""


def scopes() -> dict[str, AnyScope]:
    """Return the scopes with a fixed name; `scope_named` also knows those with numbers in their names."""
    allocations = allocation_names()
    return {
        "global": Unstructured("global"),
        "layer": Unstructured("layer"),
        "row": Rows(),
        **{name: Allocated(name) for name in allocations},
        **{f"{name}-row": AllocatedRows(name) for name in allocations},
        **STRUCTURED,
    }


def scope_named(name: str) -> AnyScope:
    """Look up a scope.

    Raises:
        UserError: there is no such scope.
    """
    if name in (named := scopes()):
        return named[name]
    if found := _TILES.fullmatch(name):
        return Tiles(int(found[1]), int(found[2]))
    if (found := _N_OF_M.fullmatch(name)) and int(found[1]) < int(found[2]):
        return NOfM(int(found[1]), int(found[2]))
    raise UserError(
        f"scope '{name}' is unknown; use {', '.join(named)}, NofM with 0 < N < M (2of4, 4of8) or blockHxW (block16x16)"
    )


def ordered_scopes(names: Iterable[str]) -> list[str]:
    """Return distinct names of scopes, `global` and `layer` first in any case: those of `scopes`, then all others."""
    known = list(scopes())
    return sorted({*known[:2], *names}, key=lambda name: (known.index(name) if name in known else len(known), name))


def is_allocated(name: str) -> bool:
    """Return whether an allocation says how many weights each tensor of a scope loses."""
    return isinstance(scope_named(name), Allocated)


def has_own_sparsity(name: str) -> bool:
    """Return whether a scope has only one sparsity, so that its tickets are not a curve; unknown names have not."""
    try:
        return scope_named(name).own_sparsity is not None
    except UserError:
        return False


@dataclass(frozen=True)
class Group:
    """Tensors (by index) that are ranked together, and the number of weights to prune among them."""

    members: tuple[int, ...]
    prune: int


def groups(scope: Literal["global", "layer"], sparsity: Sparsity, sizes: Sequence[int]) -> list[Group]:
    """Return the competitions of `global` or `layer` among tensors of the given sizes."""
    if scope == "global":
        return [Group(tuple(range(len(sizes))), sparsity.count(sum(sizes)))]
    return [Group((index,), sparsity.count(size)) for index, size in enumerate(sizes)]
