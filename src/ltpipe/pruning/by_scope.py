"""From the name of a scope to its cutter."""

from typing import Any, assert_never

from ltpipe.pruning.allocation import Request, allocate
from ltpipe.pruning.allocations import allocation_named
from ltpipe.pruning.cutters import Cutter, run_cutter, threshold_cutter
from ltpipe.pruning.histogram import KeyHistogram, streaming_bytes
from ltpipe.pruning.layout import Layout
from ltpipe.pruning.scopes import (
    Allocated,
    AllocatedRows,
    Group,
    NOfM,
    Rows,
    Tiles,
    Units,
    Unstructured,
    groups,
    scope_named,
)
from ltpipe.pruning.scores import COPIED_CHUNK, RankKeys
from ltpipe.pruning.sparsity import Sparsity
from ltpipe.pruning.tiles import TiledKeys, tile_cutter
from ltpipe.runtime.errors import UserError


def cutter_for(
    scope: str, sparsity: Sparsity, keys: RankKeys, histogram: KeyHistogram, layout: Layout, options: Any = None
) -> Cutter:
    """Return the cutter of a scope.

    Args:
        scope: name of the scope.
        sparsity: fraction to prune.
        keys: rank keys of all prunable weights.
        histogram: histogram of these keys.
        layout: the model's layout.
        options: the scope's options; None takes its defaults.

    Raises:
        UserError: there is no such scope, or it does not fit the sparsity or a tensor.
    """
    found = scope_named(scope)
    options = found.options() if options is None else options
    match found:
        case Unstructured(competition):
            return threshold_cutter(keys, histogram, groups(competition, sparsity, keys.sizes))
        case AllocatedRows(allocation):
            counts = allocate(allocation, Request(sparsity, keys, histogram, layout, options))
            return run_cutter(keys, histogram, layout, _columns(keys, layout), counts)
        case Allocated(allocation):
            counts = allocate(allocation, Request(sparsity, keys, histogram, layout, options))
            return threshold_cutter(keys, histogram, [Group((index,), count) for index, count in enumerate(counts)])
        case Rows() as rows:
            columns = _columns(keys, layout)
            counts = [
                size // width * rows.pruned(sparsity, width, options)
                for size, width in zip(keys.sizes, columns, strict=True)
            ]
            return run_cutter(keys, histogram, layout, columns, counts)
        case NOfM() as pattern:
            _check_pattern(scope, pattern, sparsity, keys, layout)
            counts = [size // pattern.group * (pattern.group - pattern.keep) for size in keys.sizes]
            return run_cutter(keys, histogram, layout, [pattern.group] * len(counts), counts)
        case Tiles(height, width):
            return tile_cutter(TiledKeys(keys, histogram, layout, height, width), sparsity)
        case Units():
            raise UserError(f"scope '{scope}' prunes units of an architecture, which only the mask stage knows")
        case _:
            assert_never(found)


def packing_bytes(bits: int, scope: str = "global", largest: int = 0) -> int:
    """Return the peak bytes of making a mask from keys of 15 or 31 bits.

    It is as much as for counting them, whatever the size of the model. Scopes that use scores also convert a chunk.
    Scopes that need a whole tensor also take bytes per weight of the largest one: its keys in chunks and joined, and
    for rows and tiles a third time in another order, and two bools.
    """
    streamed = streaming_bytes(bits)
    converted, key = 8 * 4 * COPIED_CHUNK, (bits + 1) // 8
    match found := scope_named(scope):
        case Unstructured():
            return streamed
        case Rows() | AllocatedRows() | NOfM():
            return streamed + converted + (3 * key + 2) * largest
        case Allocated(allocation):
            return streamed + converted + allocation_named(allocation).copies * key * largest
        case Units():
            return streamed + converted
        case Tiles(height, width):
            return streamed + converted + (3 * key + 2) * largest + 32 * -(-largest // (height * width))
        case _:
            assert_never(found)


def _check_pattern(scope: str, pattern: NOfM, sparsity: Sparsity, keys: RankKeys, layout: Layout) -> None:
    if float(sparsity) != float(pattern.own_sparsity):
        raise UserError(f"scope '{scope}' prunes exactly {pattern.own_sparsity}, not {sparsity}; use that sparsity")
    for name, columns in zip(keys.names, _columns(keys, layout), strict=True):
        if columns % pattern.group:
            raise UserError(
                f"scope '{scope}': '{name}' has {columns} input columns, not a multiple of {pattern.group}; "
                "exclude it (prunable.exclude) or choose another scope"
            )


def _columns(keys: RankKeys, layout: Layout) -> list[int]:
    return [layout.columns(name, shape) for name, shape in zip(keys.names, keys.shapes, strict=True)]
