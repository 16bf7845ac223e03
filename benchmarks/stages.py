"""The mask stage's own code, from the mapped checkpoint to packed bits, without writing the file."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np

from ltpipe.checkpoints.filenames import MANIFEST, WEIGHTS
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.checkpoints.prunable import Preset, Selection
from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.checkpoints.tensorwriter import TensorData
from ltpipe.pruning import build
from ltpipe.pruning.by_scope import cutter_for
from ltpipe.pruning.histogram import KeyHistogram, histogram_of
from ltpipe.pruning.layout import Layout
from ltpipe.pruning.scores import RankKeys, weight_keys
from ltpipe.pruning.sparsity import Sparsity

SCOPES = ("global", "layer")
"""Scopes whose masks are streamed, one chunk of weights at a time."""

FINGERPRINT = "benchmark"
"""Stands in for the checkpoint's fingerprint; hashing 300 names is not measured."""


def prunable(folder: Path, preset: Preset) -> tuple[str, ...]:
    """Return the names of a checkpoint's prunable tensors."""
    return Selection(preset).names(Manifest.read(folder / MANIFEST))


def open_keys(folder: Path, names: tuple[str, ...]) -> RankKeys:
    """Return the magnitudes of a freshly mapped checkpoint, so that page faults count, as in a stage."""
    return weight_keys("magnitude", TensorFile(folder / WEIGHTS), names, None)


def count(keys: RankKeys) -> KeyHistogram:
    """Run the histogram stage."""
    return histogram_of(keys, FINGERPRINT, "magnitude", None)


def write_mask(path: Path, keys: RankKeys, histogram: KeyHistogram, scope: str, sparsity: str) -> int:
    """Run the mask stage; return the number of weights kept."""
    wanted = Sparsity.of(sparsity)
    return build.write_mask(path, histogram, scope, wanted, cutter_for(scope, wanted, keys, histogram, Layout()))


def pack_away(keys: RankKeys, histogram: KeyHistogram, scope: str, sparsity: str) -> int:
    """Run the mask stage, dropping every packed chunk immediately; return the number of weights kept."""
    return _without_file(lambda _: None, keys, histogram, scope, sparsity)


def pack_in_memory(keys: RankKeys, histogram: KeyHistogram, scope: str, sparsity: str) -> list[np.ndarray]:
    """Run the mask stage and keep the packed mask in memory."""
    chunks: list[np.ndarray] = []
    _without_file(chunks.append, keys, histogram, scope, sparsity)
    return chunks


def _without_file(
    take: Callable[[np.ndarray], None], keys: RankKeys, histogram: KeyHistogram, scope: str, sparsity: str
) -> int:
    """Run `write_mask`, but pass its output to `take` instead of a file."""

    def consume(_: Path, tensors: Iterable[TensorData], __: dict[str, str]) -> None:
        for tensor in tensors:
            for chunk in tensor.chunks:
                take(chunk)

    with patch("ltpipe.pruning.build.write_tensors", consume):
        return write_mask(Path("nowhere"), keys, histogram, scope, sparsity)


@dataclass
class ReadCounter:
    """Counts the weights whose rank keys are read."""

    weights: int = 0

    def watching(self, keys: RankKeys) -> RankKeys:
        """Return the same keys, counted as they are read."""

        def chunks(name: str) -> Iterable[np.ndarray]:
            for chunk in keys.chunks(name):
                self.weights += chunk.size
                yield chunk

        return replace(keys, chunks=chunks)
