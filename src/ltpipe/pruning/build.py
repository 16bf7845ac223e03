"""The mask stage: rank, cut, pack and write, streamed from the mapped checkpoint."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.tensorwriter import TensorData, write_tensors
from ltpipe.pruning.by_scope import cutter_for, packing_bytes
from ltpipe.pruning.cutters import Cutter
from ltpipe.pruning.histogram import KeyHistogram, changed
from ltpipe.pruning.layout import Layout
from ltpipe.pruning.masks import Mask, count_kept, header
from ltpipe.pruning.scopes import Units, scope_named
from ltpipe.pruning.scorefile import ScoreFile, rank_keys
from ltpipe.pruning.scores import RankKeys
from ltpipe.pruning.sparsity import Sparsity
from ltpipe.pruning.units import cut_units
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.options import Given, as_given, options_of

_NONE: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Made:
    """A mask's numbers of kept and prunable weights, of ties broken by position, and the planned peak bytes."""

    kept: int
    total: int
    tied: int
    planned_bytes: int


def make_mask(
    checkpoint: Checkpoint,
    histogram: Path,
    scope: str,
    sparsity: str,
    output: Path,
    scores: Path | None = None,
    options: Given = _NONE,
) -> Made:
    """Make the mask of one sparsity from a checkpoint and the histogram that was counted on it.

    Args:
        checkpoint: the model's checkpoint.
        histogram: histogram of its scores.
        scope: name of the scope.
        sparsity: fraction to prune, which the mask stores as written.
        output: mask file to write.
        scores: file of the criterion's scores, if it has a score stage.
        options: the scope's options.

    Raises:
        UserError: the histogram belongs to another checkpoint, scope or sparsity is not allowed, or the model has none
            of the scope's units.
    """
    counted, wanted = KeyHistogram.read(histogram), Sparsity.of(sparsity)
    if counted.checkpoint != checkpoint.fingerprint:
        raise UserError(
            f"{histogram}: counted on a model other than {checkpoint.folder}; run the histogram stage on this one"
        )
    keys = rank_keys(checkpoint, counted.criterion, counted.seed, counted.names, scores)
    planned = packing_bytes(counted.bits, scope, max(counted.sizes))
    found = scope_named(scope)
    chosen: Any = options_of(found.options, options, f"scope {scope}")
    if isinstance(found, Units):
        cutter = cut_units(checkpoint.manifest, checkpoint.config, keys, found, wanted)
    else:
        _check_counted(keys, counted)
        cutter = cutter_for(scope, wanted, keys, counted, Layout.of(checkpoint.manifest), chosen)
    given = {"scope": as_given(chosen), "criterion": {} if scores is None else ScoreFile(scores).options}
    kept = write_mask(output, counted, scope, wanted, cutter, {what: each for what, each in given.items() if each})
    return Made(kept, counted.total, cutter.tied.total(), planned)


def write_mask(
    path: Path,
    histogram: KeyHistogram,
    scope: str,
    sparsity: Sparsity,
    cutter: Cutter,
    options: Mapping[str, Mapping[str, Any]] = _NONE,
) -> int:
    """Write the mask that a cutter makes for the counted weights; `options` as in `Mask`.

    Returns:
        Number of weights kept.

    Raises:
        UserError: the weights are not those that the histogram counted.
    """
    kept = dict(cutter.kept)
    shapes = dict(zip(histogram.names, histogram.shapes, strict=True))
    promised = Mask(
        {}, shapes, kept, histogram.criterion, scope, sparsity, histogram.seed, histogram.checkpoint, options
    )
    write_tensors(
        path,
        [
            TensorData(name, "U8", ((size + 7) // 8,), _counted(cutter, name, kept[name]))
            for name, size in zip(histogram.names, histogram.sizes, strict=True)
        ],
        header(promised),
    )
    return sum(kept.values())


def _check_counted(keys: RankKeys, histogram: KeyHistogram) -> None:
    if (keys.names, keys.shapes, keys.bits) != (histogram.names, histogram.shapes, histogram.bits):
        raise UserError("the histogram was counted on other weights; run the histogram stage again")


def _counted(cutter: Cutter, name: str, kept: int) -> Iterator[np.ndarray]:
    """Pack a tensor chunk by chunk, and raise UserError if the count is not the expected one."""
    ones = 0
    for bits in cutter.packed(name):
        ones += count_kept(bits)
        yield bits
    if ones != kept:
        raise UserError(changed(name))
