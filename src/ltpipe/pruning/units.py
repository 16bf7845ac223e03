"""Masks of whole units: heads, channels and blocks (defined in `ltpipe.pruning.families`).

A unit's score is the mean score of its weights. Heads and channels compete inside each block, and every block loses the
same number of them, because a Hugging Face configuration has one number for all blocks. Blocks compete across the whole
model.
"""

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from ltpipe.checkpoints.manifest import Manifest
from ltpipe.checkpoints.tensorfile import in_chunks
from ltpipe.pruning import kernels
from ltpipe.pruning.cutters import Cutter
from ltpipe.pruning.families import Family, families
from ltpipe.pruning.masks import Mask
from ltpipe.pruning.scopes import Units
from ltpipe.pruning.scores import RankKeys
from ltpipe.pruning.sparsity import Sparsity
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.progress import track

_SCORED = 1 << 18  # weights converted to float32 scores at a time
_EXPANDED = 1 << 20  # weights whose bits are expanded to bools at a time


def lines_kept(found: Sequence[Family], kept: Sequence[np.ndarray]) -> dict[str, tuple[int, np.ndarray]]:
    """Return which rows (axis 0) or columns (1) of the units' tensors stay: name to axis and bool [length of the axis].

    Args:
        found: families of units.
        kept: for each family, bool [units], True where a unit stays.
    """
    return {
        part.name: (part.axis, np.repeat(units, part.width))
        for family, units in zip(found, kept, strict=True)
        for part in family.parts
    }


def unit_cutter(shapes: Mapping[str, tuple[int, ...]], lines: Mapping[str, tuple[int, np.ndarray]]) -> Cutter:
    """Return the cutter that keeps whole rows and columns.

    Args:
        shapes: shapes of all prunable tensors.
        lines: which rows or columns stay, as from `lines_kept`. Other tensors stay whole.
    """
    counts = {name: prod(shape) for name, shape in shapes.items()}
    for name, (_, stay) in lines.items():
        counts[name] = counts[name] // len(stay) * int(stay.sum())

    def packed(name: str) -> Iterator[np.ndarray]:
        shape = shapes[name] or (1,)
        rows, columns = shape[0], prod(shape[1:])
        axis, stay = lines.get(name, (0, np.ones(rows, np.bool_)))
        step = max(8, _EXPANDED // max(columns, 1) // 8 * 8)  # eight rows fill whole bytes
        for start in range(0, rows, step):
            count = min(step, rows - start)
            bits = stay[start : start + count, None] if axis == 0 else stay[None]
            yield np.packbits(np.broadcast_to(bits, (count, columns)), bitorder="little")

    return Cutter(counts, packed)


def cut_units(
    manifest: Manifest, config: Mapping[str, Any], keys: RankKeys, scope: Units, sparsity: Sparsity
) -> Cutter:
    """Prune exactly `round(sparsity * N)` of the N units of each competition of `scope`, the lowest scores first.

    It takes one pass over the keys of the units, and needs the checkpoint's manifest and configuration but no model.

    Raises:
        UserError: the architecture has no such units, some weights of a unit are not prunable, or all units would be
            pruned.
    """
    found = families(scope.kind, manifest, config, keys.names)
    shapes = dict(zip(keys.names, keys.shapes, strict=True))
    return unit_cutter(shapes, lines_kept(found, choose(scope, sparsity, unit_scores(keys, found))))


def unit_scores(keys: RankKeys, found: Sequence[Family]) -> list[np.ndarray]:
    """Return the mean score of every unit, float64 [units] for each family; summed in float64, weight by weight.

    Raises:
        UserError: a score is infinite or not a number.
    """
    sizes = dict(zip(keys.names, keys.sizes, strict=True))
    rows = {name: shape[0] for name, shape in zip(keys.names, keys.shapes, strict=True) if shape}
    scores = []
    for family in track(found, "scoring units", "block"):
        sums = np.zeros(family.units)
        for part in family.parts:
            run = part.width * (sizes[part.name] // rows[part.name] if part.axis == 0 else 1)
            for start, values in _values(keys, part.name):
                kernels.add_by_unit(values, start, run, sums)
        if not np.isfinite(sums).all():
            names = ", ".join(part.name for part in family.parts)
            raise UserError(f"one of {names} changed since it was counted; run the histogram stage again")
        scores.append(sums * family.units / sum(sizes[part.name] for part in family.parts))
    return scores


def choose(scope: Units, sparsity: Sparsity, scores: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return which units stay: bool [units] for each family.

    Ties are broken in canonical order: blocks, heads and channels by their index, the earlier is pruned first.

    Raises:
        UserError: all units of a competition would be pruned although `sparsity` is below 1.
    """
    kept = np.concatenate([_kept(scope, sparsity, units) for units in scope.competitions(scores)])
    return np.split(kept, np.cumsum([len(units) for units in scores])[:-1])


def units_of(mask: Mask, found: Sequence[Family]) -> list[np.ndarray]:
    """Return which units a mask keeps: bool [units] for each family.

    Raises:
        UserError: the mask prunes anything other than whole units.
    """
    kept = [_first_weights(mask, family) for family in found]
    cutter = unit_cutter(mask.shapes, lines_kept(found, kept))
    for name, bits in mask.bits.items():
        if not _equal(bits, cutter.packed(name)):
            raise UserError(f"the mask of '{name}' does not prune whole {mask.scope}; make a mask of that scope")
    return kept


def _values(keys: RankKeys, name: str) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the scores of a tensor, float32, in pieces, each with its first flat index."""
    position = 0
    for chunk in keys.chunks(name):
        for piece in in_chunks(chunk, _SCORED):
            yield position, keys.values(piece)
            position += piece.size


def _kept(scope: Units, sparsity: Sparsity, scores: np.ndarray) -> np.ndarray:
    count = sparsity.count(scores.size)
    if count == scores.size and sparsity.fraction != 1:
        raise UserError(
            f"scope '{scope.kind}': sparsity {sparsity} of {scores.size} units rounds to all of them; use less than "
            f"{(scores.size - 0.5) / scores.size:.4g}, or 1"
        )
    kept = np.ones(scores.size, np.bool_)
    kept[np.argsort(scores, kind="stable")[:count]] = False
    return kept


def _first_weights(mask: Mask, family: Family) -> np.ndarray:
    """Return the bit of the first weight of every unit."""
    part = family.parts[0]
    shape = mask.shapes[part.name]
    first = np.arange(family.units) * part.width * (prod(shape[1:]) if part.axis == 0 else 1)
    return (mask.bits[part.name][first // 8] >> (first % 8).astype(np.uint8) & 1).astype(np.bool_)


def _equal(bits: np.ndarray, chunks: Iterator[np.ndarray]) -> bool:
    start = 0
    for chunk in chunks:
        if not np.array_equal(bits[start : start + chunk.size], chunk):
            return False
        start += chunk.size
    return True
