"""Whether a mask keeps the numbers of weights that its scope promises."""

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

import numpy as np

from ltpipe.checkpoints.manifest import Manifest
from ltpipe.pruning.families import families
from ltpipe.pruning.layout import Layout
from ltpipe.pruning.masks import Mask, unpack
from ltpipe.pruning.scopes import EvenRows, Promise, Scope, Tiles, Units
from ltpipe.pruning.units import units_of
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.options import options_of


def broken_promises(
    mask: Mask, scope: Scope, manifest: Manifest | None, config: Mapping[str, Any] | None = None
) -> Iterator[str]:
    """Where a mask prunes another number of weights than promised.

    Takes a byte for each weight of the largest tensor, where rows, runs or tiles have to be counted.

    Args:
        mask: to look at.
        scope: of the mask.
        manifest: of its model, which says where rows are; without it what is promised of rows, runs and tiles is not
            looked at.
        config: of its model, which says where units are; the same.
    """
    if "level" in mask.options:  # of a training: what it prunes follows from the levels before
        return
    try:
        options: Any = options_of(scope.options, mask.options.get("scope", {}), f"scope {mask.scope}")
    except UserError as error:
        yield str(error)
        return
    layout = Layout.of(manifest) if manifest else None
    for promise in scope.promises(mask.sparsity, options):
        match promise:
            case Promise("mask"):
                yield from _whole(mask, promise)
            case Promise("tensor"):
                yield from _tensors(mask, promise)
            case EvenRows() if layout:
                yield from _even_rows(mask, layout)
            case Promise("row" | "run") if layout:
                yield from _runs(mask, promise, layout)
            case Promise("tile") if layout and isinstance(scope, Tiles):
                yield from _tiles(mask, promise, scope, layout)
            case Promise("unit") if manifest and config and isinstance(scope, Units):
                yield from _units(mask, promise, scope, manifest, config)


def _whole(mask: Mask, promise: Promise) -> Iterator[str]:
    promised = mask.total - promise.pruned(mask.total)
    if mask.total_kept != promised:
        yield f"keeps {mask.total_kept:,} weights, promised are {promised:,}"


def _tensors(mask: Mask, promise: Promise) -> Iterator[str]:
    for name, shape in mask.shapes.items():
        promised = prod(shape) - promise.pruned(prod(shape))
        if mask.kept[name] != promised:
            yield f"'{name}' keeps {mask.kept[name]:,} weights, promised are {promised:,}"


def _runs(mask: Mask, promise: Promise, layout: Layout) -> Iterator[str]:
    """Rows, or runs of a length, of each tensor."""
    what = "rows" if promise.each == "row" else f"groups of {promise.length}"
    for name, matrices in _matrices(mask, layout):
        columns = matrices.shape[2]
        length = promise.length or columns
        if length == 0 or columns % length:
            yield f"'{name}' has {columns} input columns, which is no multiple of {length}"
            continue
        kept = matrices.reshape(*matrices.shape[:2], -1, length).sum(-1, dtype=np.int64).reshape(-1)
        promised = length - promise.pruned(length)
        if wrong := int((kept != promised).sum()):
            yield f"'{name}': {wrong:,} of {kept.size:,} {what} do not keep {promised:,} weights, as promised"


def _even_rows(mask: Mask, layout: Layout) -> Iterator[str]:
    for name, matrices in _matrices(mask, layout):
        kept = matrices.sum(-1, dtype=np.int64)
        if kept.size and np.ptp(kept) > 1:
            yield f"'{name}': rows keep {kept.min():,} to {kept.max():,} weights, promised are as many, but for 1"


def _tiles(mask: Mask, promise: Promise, scope: Tiles, layout: Layout) -> Iterator[str]:
    tiles = gone = 0
    for name, matrices in _matrices(mask, layout):
        edges = zip(matrices.shape[1:], (scope.height, scope.width), strict=True)
        rows, columns = (range(0, size, step) for size, step in edges)
        sizes = np.multiply.outer(*(np.diff([*line, line.stop]) for line in (rows, columns)))
        for matrix in matrices:
            bands = np.add.reduceat(matrix.view(np.uint8), list(rows), axis=0, dtype=np.int64)
            kept = np.add.reduceat(bands, list(columns), axis=1)
            if partly := int(((kept > 0) & (kept < sizes)).sum()):
                yield f"'{name}': {partly:,} of {kept.size:,} tiles are kept in part"
            tiles, gone = tiles + kept.size, gone + int((kept == 0).sum())
    if gone != (promised := promise.pruned(tiles)):
        yield f"prunes {gone:,} of {tiles:,} tiles, promised are {promised:,}"


def _units(mask: Mask, promise: Promise, scope: Units, manifest: Manifest, config: Mapping[str, Any]) -> Iterator[str]:
    try:
        kept = units_of(mask, families(scope.kind, manifest, config, mask.shapes))
    except UserError as error:
        yield str(error)
        return
    competing = scope.competitions(kept)
    for index, units in enumerate(competing):
        gone, promised = int((~units).sum()), promise.pruned(units.size)
        if gone != promised:
            where = "" if len(competing) == 1 else f" in block {index}"
            yield f"prunes {gone:,} of {units.size:,} {scope.kind}{where}, promised are {promised:,}"


def _matrices(mask: Mask, layout: Layout) -> Iterator[tuple[str, np.ndarray]]:
    """Name, and bools [matrices, output rows, input columns], of each tensor."""
    for name, shape in mask.shapes.items():
        yield name, layout.matrices(name, shape, unpack(mask.bits[name], (prod(shape),)))
