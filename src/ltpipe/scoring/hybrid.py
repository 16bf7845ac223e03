"""Weighted sums of other criteria's scores."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, reduce
from pathlib import Path
from typing import Any

import numpy as np

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.prunable import Selection
from ltpipe.pruning.scorefile import ScoreFile, score_writer
from ltpipe.pruning.scores import Weights, float32_keys
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.progress import track

MAGNITUDE = "magnitude"
"""The criterion that is read from the weights, without a score file."""


@dataclass(frozen=True)
class HybridPart:
    """One criterion of a hybrid: `magnitude` or the path of a score file, and its weight in the sum."""

    scores: str
    weight: float


def hybrid_parts(scores: Sequence[str], weights: Sequence[float]) -> list[HybridPart]:
    """Return the parts of a hybrid.

    Raises:
        UserError: the numbers of scores and weights differ.
    """
    if len(scores) != len(weights):
        raise UserError(f"{len(scores)} scores but {len(weights)} weights; give each score one weight")
    return [HybridPart(*pair) for pair in zip(scores, weights, strict=True)]


def make_hybrid(
    checkpoint: Checkpoint, name: str, parts: Sequence[HybridPart], selection: Selection, output: Path
) -> None:
    """Write the scores Σ_i weight_i · s_i / mean|s_i|, with means over all selected weights, in float64.

    So every criterion has a mean magnitude of 1 before weighting, whatever its unit. Extra memory is a few copies of
    the largest tensor.

    Args:
        checkpoint: the checkpoint that all scores belong to.
        name: name of the hybrid.
        parts: parts of the hybrid.
        selection: weights to score.
        output: score file to write.

    Raises:
        UserError: a score file belongs to another model, a weight is not positive, or a part's scores are all zero.
    """
    manifest = checkpoint.manifest
    names = selection.names(manifest)
    scored = [_scored(checkpoint, part) for part in parts]
    combined = combine(name, scored, names)
    options: dict[str, Mapping[str, Any]] = {}
    for part in scored:
        options |= part.options
    with score_writer(output, manifest, names, name, any(part.signed for part in scored), {}, options) as write:
        for tensor in track(names, "combining"):
            write(tensor, combined(tensor))


@dataclass(frozen=True)
class Scored:
    """One criterion's scores in a hybrid.

    Attributes:
        origin: name of the scores in error messages.
        read: function from a tensor's name to its scores, float32.
        signed: whether they may be negative.
        weight: weight in the sum.
        options: options by criterion.
    """

    origin: str
    read: Callable[[str], np.ndarray]
    signed: bool
    weight: float
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def combine(hybrid: str, parts: Sequence[Scored], names: Sequence[str]) -> Callable[[str], np.ndarray]:
    """Return a function from a tensor's name to Σ_i weight_i · s_i / mean|s_i|, float32, with means over `names`.

    Raises:
        UserError: a weight is not positive, or a part's scores are all zero.
    """
    scaled: list[tuple[Callable[[str], np.ndarray], float]] = []
    for part in parts:
        if not part.weight > 0:
            raise UserError(f"{hybrid}: weight {part.weight} of {part.origin} is not allowed; use a number above 0")
        total, magnitude = 0, 0.0
        for name in track(names, "averaging"):
            scores = part.read(name)
            total, magnitude = total + scores.size, magnitude + float(np.abs(scores).sum(dtype=np.float64))
        if magnitude == 0:
            raise UserError(f"{hybrid}: the scores of {part.origin} are all zero and cannot be normalised")
        scaled.append((part.read, part.weight / (magnitude / total)))
    return lambda name: reduce(np.add, (read(name) * np.float64(factor) for read, factor in scaled)).astype(np.float32)


def magnitudes(weights: Weights, name: str) -> np.ndarray:
    """Return |w| of a tensor, float32."""
    bits = np.concatenate([block & np.uint32(0x7FFFFFFF) for block in float32_keys(weights, name)])
    return bits.view(np.float32).reshape(weights.spec(name).shape)


def _scored(checkpoint: Checkpoint, part: HybridPart) -> Scored:
    if part.scores == MAGNITUDE:
        return Scored(part.scores, partial(magnitudes, checkpoint.weights), False, part.weight)
    file = ScoreFile(Path(part.scores))
    file.check_made_for(checkpoint.fingerprint)
    options = {file.criterion: file.options} if file.options else {}
    return Scored(part.scores, file.array, file.signed, part.weight, options)
