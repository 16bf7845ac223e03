"""The mask stage: rank, cut, pack and write, streaming from the mapped checkpoint."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ltpipe.checkpoints.layout import MANIFEST
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.checkpoints.tensorfile import TensorData, write_tensors
from ltpipe.pruning import kernels
from ltpipe.pruning.histogram import KeyHistogram
from ltpipe.pruning.masks import FORMAT, count_kept
from ltpipe.pruning.scopes import groups
from ltpipe.pruning.scorefile import rank_keys
from ltpipe.pruning.scores import BLOCK, COPIED_BLOCK, RankKeys
from ltpipe.pruning.thresholds import Cut, exact_cuts
from ltpipe.runtime.errors import UserError


@dataclass(frozen=True)
class Made:
    """A mask's kept and prunable weights, and the most bytes that making it was foreseen to take."""

    kept: int
    total: int
    planned_bytes: int


def make_mask(
    folder: Path, histogram: Path, scope: str, sparsity: str, output: Path, scores: Path | None = None
) -> Made:
    """Make the mask of one sparsity from a canonical checkpoint and the histogram that was counted on it.

    Args:
        folder: canonical checkpoint folder.
        histogram: of its scores.
        scope: where weights compete.
        sparsity: fraction to prune.
        output: where to write the mask.
        scores: file of the criterion's scores, if it has a score stage.

    Raises:
        UserError: the histogram is of another checkpoint, or scope or sparsity are not allowed.
    """
    counted = KeyHistogram.read(histogram)
    manifest = Manifest.read(folder / MANIFEST)
    if counted.checkpoint != manifest.fingerprint:
        raise UserError(f"{histogram}: counted on another model than {folder}; run the histogram stage on this one")
    keys = rank_keys(folder, manifest.fingerprint, counted.criterion, counted.seed, counted.names, scores)
    return Made(write_mask(output, keys, counted, scope, sparsity), counted.total, packing_bytes(counted.bits))


def packing_bytes(bits: int) -> int:
    """Most bytes that counting or packing keys of 15 or 31 bits takes at a time, whatever the size of the model.

    A block of packed bits for each of two limits, and for converted 31-bit keys the block itself with two temporaries.
    """
    return 2 * (BLOCK // 8) + (3 * 4 * COPIED_BLOCK if bits == 31 else 0)


def write_mask(path: Path, keys: RankKeys, histogram: KeyHistogram, scope: str, sparsity: str) -> int:
    """Prune exactly `round(sparsity * N)` weights of each competition of `scope`, and write the mask.

    Returns:
        Number of weights kept.

    Streams the keys once to pack them (31-bit keys once more, to find the threshold); extra memory is one block.

    Raises:
        UserError: the weights are not those that the histogram counted.
    """
    if (keys.names, keys.shapes, keys.bits) != (histogram.names, histogram.shapes, histogram.bits):
        raise UserError("the histogram was counted on other weights; run the histogram stage again")
    (cuts,) = exact_cuts(keys, histogram, [groups(scope, sparsity, keys.sizes)])
    kept = {name: size - cut.pruned for name, size, cut in zip(keys.names, keys.sizes, cuts, strict=True)}
    metadata = {
        "format": FORMAT,
        "kind": "mask",
        "criterion": histogram.criterion,
        "scope": scope,
        "sparsity": sparsity,
        "seed": json.dumps(histogram.seed),
        "checkpoint": histogram.checkpoint,
        "total": str(histogram.total),
        "kept": json.dumps(kept),
        "shapes": json.dumps(dict(zip(keys.names, keys.shapes, strict=True))),
    }
    write_tensors(
        path,
        [
            TensorData(name, "U8", ((size + 7) // 8,), _packed(keys, name, cut, kept[name]))
            for name, size, cut in zip(keys.names, keys.sizes, cuts, strict=True)
        ],
        metadata,
    )
    return sum(kept.values())


def _packed(keys: RankKeys, name: str, cut: Cut, kept: int) -> Iterator[np.ndarray]:
    """Pack a tensor block by block, and refuse to end on a count that is not the one promised."""
    ties, ones = cut.ties, 0
    for block in keys.blocks(name):
        bits, ties = kernels.pack(block, cut.threshold, ties)
        ones += count_kept(bits)
        yield bits
    if ones != kept:
        raise UserError(f"tensor '{name}' changed since it was counted; run the histogram stage again")
