"""Weighted sums of other criteria's scores."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ltpipe.checkpoints.canonical import open_weights
from ltpipe.checkpoints.layout import MANIFEST
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.checkpoints.prunable import Selection
from ltpipe.pruning.scorefile import ScoreFile, score_writer
from ltpipe.pruning.scores import float32_keys
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.progress import track

MAGNITUDE = "magnitude"
"""The criterion that is read from the weights and has no score file."""


@dataclass(frozen=True)
class Part:
    """One criterion of a hybrid: `magnitude` or the path of a score file, and its weight in the sum."""

    scores: str
    weight: float


def parts_of(scores: Sequence[str], weights: Sequence[float]) -> list[Part]:
    """The parts of a hybrid.

    Raises:
        UserError: there are not as many weights as scores.
    """
    if len(scores) != len(weights):
        raise UserError(f"{len(scores)} scores have {len(weights)} weights; give each score one weight")
    return [Part(*pair) for pair in zip(scores, weights, strict=True)]


def combine_scores(folder: Path, name: str, parts: Sequence[Part], selection: Selection, output: Path) -> None:
    """Write the scores Σ_i weight_i · s_i / mean|s_i|, means over all selected weights, in float64.

    So every criterion has a mean magnitude of 1 before it is weighted, whatever its unit. Extra memory is a few
    copies of the largest tensor.

    Args:
        folder: canonical checkpoint folder that all scores are of.
        name: of the hybrid.
        parts: what it is made of.
        selection: of the weights.
        output: score file to write.

    Raises:
        UserError: a score file is of another model, a weight is not positive, or the scores of a part are all zero.
    """
    manifest = Manifest.read(folder / MANIFEST)
    names = selection.names(manifest)
    total = sum(manifest.tensors[tensor].size for tensor in names)
    scaled: list[tuple[Callable[[str], np.ndarray], float]] = []
    signed, options = False, {}
    for part in parts:
        if not part.weight > 0:
            raise UserError(
                f"{name}: weight {part.weight} of {part.scores} is not allowed; allowed are numbers above 0"
            )
        read, may_be_negative, chosen = _reader(folder, manifest, part.scores)
        options |= chosen
        sums = (float(np.abs(read(tensor)).sum(dtype=np.float64)) for tensor in track(names, "averaging"))
        mean = sum(sums) / total
        if mean == 0:
            raise UserError(f"{name}: the scores of {part.scores} are all zero, which cannot be normalised")
        scaled.append((read, part.weight / mean))
        signed = signed or may_be_negative
    with score_writer(output, manifest, names, name, signed, {}, options) as write:
        for tensor in track(names, "combining"):
            write(tensor, sum(read(tensor) * np.float64(factor) for read, factor in scaled).astype(np.float32))


def _reader(
    folder: Path, manifest: Manifest, scores: str
) -> tuple[Callable[[str], np.ndarray], bool, dict[str, Mapping[str, Any]]]:
    """Function from a tensor's name to its scores, float32; whether they may be negative; options by criterion."""
    if scores != MAGNITUDE:
        file = ScoreFile(Path(scores))
        file.check_made_for(manifest.fingerprint)
        return file.array, file.signed, {file.criterion: file.options} if file.options else {}
    weights = open_weights(folder)

    def magnitudes(name: str) -> np.ndarray:
        bits = np.concatenate([block & np.uint32(0x7FFFFFFF) for block in float32_keys(weights, name)])
        return bits.view(np.float32).reshape(manifest.tensors[name].shape)

    return magnitudes, False, {}
