"""Scopes: which weights compete with each other, how many of them go, and in what pattern.

docs/scopes.md has the definitions, formulas and sources. A scope is a name in the configuration and a plain value here;
`by_scope` turns it into a mask. A new way to share the sparsity out over tensors is one file in `allocations`.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from ltpipe.pruning.allocations import allocation_named, allocation_names
from ltpipe.pruning.sparsity import Sparsity
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.options import NoOptions


@dataclass(frozen=True)
class Promise:
    """A number that a scope keeps to in every mask: what goes of each thing of a kind.

    Attributes:
        each: `mask` (all weights together), `tensor`, `row`, `run` (neighbours along the input dimension), `tile` and
            `unit` (of which whole ones go, counted over all that compete).
        pruned: of so many weights, tiles or units how many go.
        length: of a run.
    """

    each: Literal["mask", "tensor", "row", "run", "tile", "unit"]
    pruned: Callable[[int], int]
    length: int = 0


@dataclass(frozen=True)
class EvenRows:
    """The promise that rows of a tensor lose the same number of weights, but for one."""


class Scope(ABC):
    """Which weights compete, and how many of them go.

    Attributes:
        empties: whether it is meant to empty rows, heads or blocks.
    """

    empties: ClassVar[bool] = False

    @property
    def options(self) -> type:
        """Dataclass of what can be chosen, as in `ltpipe.runtime.options`."""
        return NoOptions

    @property
    def nested(self) -> bool:
        """Whether a mask keeps nothing that one of a smaller sparsity does not."""
        return True

    @property
    def own_sparsity(self) -> Sparsity | None:
        """The one sparsity of a scope that has only one: its tickets are no curve."""
        return None

    @abstractmethod
    def promises(self, sparsity: Sparsity, options: Any) -> tuple[Promise | EvenRows, ...]:
        """What every mask of the scope keeps to.

        Args:
            sparsity: that was asked for.
            options: of the scope's type.
        """


@dataclass(frozen=True)
class Unstructured(Scope):
    """The smallest weights go, of all tensors together or of each."""

    competition: Literal["global", "layer"]

    def promises(self, sparsity: Sparsity, options: Any) -> tuple[Promise, ...]:  # noqa: ARG002
        """See `Scope`."""
        return (Promise("mask" if self.competition == "global" else "tensor", sparsity.count),)


@dataclass(frozen=True)
class Allocated(Scope):
    """The smallest of each tensor go, as many as an allocation says."""

    allocation: str

    @property
    def options(self) -> type:
        """Those of the allocation."""
        return allocation_named(self.allocation).options

    @property
    def nested(self) -> bool:
        """As the allocation says."""
        return allocation_named(self.allocation).nested

    def promises(self, sparsity: Sparsity, options: Any) -> tuple[Promise | EvenRows, ...]:  # noqa: ARG002
        """See `Scope`."""
        return (Promise("mask", sparsity.count),)


@dataclass(frozen=True)
class AllocatedRows(Allocated):
    """The smallest of each output row go: of each tensor as many as an allocation says, spread evenly."""

    def promises(self, sparsity: Sparsity, options: Any) -> tuple[Promise | EvenRows, ...]:
        """See `Scope`."""
        return (*super().promises(sparsity, options), EvenRows())


@dataclass(frozen=True)
class RowOptions:
    """Options of scope row.

    Attributes:
        counts: `exact`, round(s · columns) of every row, or `truncated`, the whole part of the product in float64: what
            Wanda's code prunes (Sun et al. 2024, 2306.11695).
    """

    counts: Literal["exact", "truncated"] = "exact"


@dataclass(frozen=True)
class Rows(Scope):
    """The smallest of each output row go, the same fraction of every row."""

    options = RowOptions

    def promises(self, sparsity: Sparsity, options: RowOptions) -> tuple[Promise, ...]:
        """See `Scope`."""
        return (Promise("row", lambda columns: self.pruned(sparsity, columns, options)),)

    def pruned(self, sparsity: Sparsity, columns: int, options: RowOptions) -> int:
        """How many of a row's weights go."""
        return sparsity.count(columns) if options.counts == "exact" else int(columns * float(sparsity))


@dataclass(frozen=True)
class NOfM(Scope):
    """Of every `group` consecutive weights along the input dimension the `keep` largest stay."""

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
    """Tiles of `height` output rows and `width` input columns go whole; all tiles compete."""

    height: int
    width: int
    empties: ClassVar[bool] = True

    def promises(self, sparsity: Sparsity, options: Any) -> tuple[Promise, ...]:  # noqa: ARG002
        """See `Scope`."""
        return (Promise("tile", sparsity.count),)


@dataclass(frozen=True)
class Units(Scope):
    """Whole units of the architecture go, attention heads for example: `ltpipe.pruning.units` cuts these."""

    kind: Literal["heads", "channels", "blocks"]
    empties: ClassVar[bool] = True

    def competitions(self, units: Sequence[np.ndarray]) -> list[np.ndarray]:
        """What competes with each other: all blocks of the model, the heads or channels of each block.

        Args:
            units: of each block of the model, one value a unit.
        """
        return [np.concatenate(units)] if self.kind == "blocks" else list(units)

    def promises(self, sparsity: Sparsity, options: Any) -> tuple[Promise, ...]:  # noqa: ARG002
        """See `Scope`."""
        return (Promise("unit", sparsity.count),)


_N_OF_M = re.compile(r"([1-9]\d*)of([1-9]\d*)")
_TILES = re.compile(r"block([1-9]\d*)x([1-9]\d*)")


def scopes() -> dict[str, Scope]:
    """Scopes with a name of their own; `scope_named` knows those with numbers in their names too."""
    allocations = allocation_names()
    return {
        "global": Unstructured("global"),
        "layer": Unstructured("layer"),
        "row": Rows(),
        **{name: Allocated(name) for name in allocations},
        **{f"{name}-row": AllocatedRows(name) for name in allocations},
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
        f"scope '{name}' is unknown; use {', '.join(named)}, NofM with 0 < N < M (2of4, 4of8) or blockHxW (block16x16)"
    )


def has_own_sparsity(name: str) -> bool:
    """Whether a scope has one sparsity only, so that its tickets are no curve; names of imported masks have not."""
    try:
        return scope_named(name).own_sparsity is not None
    except UserError:
        return False


@dataclass(frozen=True)
class Group:
    """Tensors (by index) that are ranked together, and the number of weights to prune among them."""

    members: tuple[int, ...]
    prune: int


def groups(scope: str, sparsity: Sparsity, sizes: Sequence[int]) -> list[Group]:
    """The competitions that `global` or `layer` sets up among tensors of the given sizes.

    Raises:
        UserError: the competitions of the scope do not follow from sizes.
    """
    if scope == "global":
        return [Group(tuple(range(len(sizes))), sparsity.count(sum(sizes)))]
    if scope == "layer":
        return [Group((index,), sparsity.count(size)) for index, size in enumerate(sizes)]
    scope_named(scope)
    raise UserError(f"scope '{scope}' depends on more than sizes; use global or layer")
