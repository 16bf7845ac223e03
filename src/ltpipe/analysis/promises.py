"""Check that a mask keeps as many weights as its scope promises."""

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
    """Yield the places where a mask does not prune as many weights as its scope promises.

    Counting rows, runs or tiles takes one byte per weight of the largest tensor.

    Args:
        mask: the mask to check.
        scope: its scope.
        manifest: manifest of its model, which locates rows; without it rows, runs and tiles are not checked.
        config: configuration of its model, which locates units; without it units are not checked.
    """
    if "level" in mask.options:  # of a training: the levels before decide how much it prunes
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
        yield f"keeps {mask.total_kept:,} weights instead of {promised:,}"


def _tensors(mask: Mask, promise: Promise) -> Iterator[str]:
    for name, shape in mask.shapes.items():
        promised = prod(shape) - promise.pruned(prod(shape))
        if mask.kept[name] != promised:
            yield f"'{name}' keeps {mask.kept[name]:,} weights instead of {promised:,}"


def _runs(mask: Mask, promise: Promise, layout: Layout) -> Iterator[str]:
    """Check the rows, or runs of a fixed length, of each tensor."""
    what = "rows" if promise.each == "row" else f"groups of {promise.length}"
    for name, matrices in _matrices(mask, layout):
        columns = matrices.shape[2]
        length = promise.length or columns
        if length == 0 or columns % length:
            yield f"'{name}' has {columns} input columns, which is not a multiple of {length}"
            continue
        kept = matrices.reshape(*matrices.shape[:2], -1, length).sum(-1, dtype=np.int64).reshape(-1)
        promised = length - promise.pruned(length)
        if wrong := int((kept != promised).sum()):
            yield f"'{name}': {wrong:,} of {kept.size:,} {what} do not keep {promised:,} weights"


def _even_rows(mask: Mask, layout: Layout) -> Iterator[str]:
    for name, matrices in _matrices(mask, layout):
        kept = matrices.sum(-1, dtype=np.int64)
        if kept.size and np.ptp(kept) > 1:
            yield f"'{name}': rows keep {kept.min():,} to {kept.max():,} weights; they may differ by 1"


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
                yield f"'{name}': {partly:,} of {kept.size:,} tiles are kept only in part"
            tiles, gone = tiles + kept.size, gone + int((kept == 0).sum())
    if gone != (promised := promise.pruned(tiles)):
        yield f"prunes {gone:,} of {tiles:,} tiles instead of {promised:,}"


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
            yield f"prunes {gone:,} of {units.size:,} {scope.kind}{where} instead of {promised:,}"


def _matrices(mask: Mask, layout: Layout) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each tensor's name and its mask: bool [matrices, output rows, input columns]."""
    for name, shape in mask.shapes.items():
        yield name, layout.matrices(name, shape, unpack(mask.bits[name], (prod(shape),)))
