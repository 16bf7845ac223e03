"""The mask stage's own code, from the mapped checkpoint to packed bits, without the file at the end."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np

from ltpipe.checkpoints.layout import MANIFEST, WEIGHTS
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.checkpoints.prunable import Preset, Selection
from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.checkpoints.tensorwriter import TensorData
from ltpipe.pruning.build import write_mask
from ltpipe.pruning.histogram import KeyHistogram, count_keys
from ltpipe.pruning.scores import RankKeys, criterion_named

SCOPES = ("global", "layer")
"""Those whose masks are streamed, one block of weights at a time."""

FINGERPRINT = "benchmark"
"""Stands for the checkpoint's; hashing 300 names is not what is measured."""


def prunable(folder: Path, preset: Preset) -> tuple[str, ...]:
    """Names of a checkpoint's prunable tensors."""
    return Selection(preset).names(Manifest.read(folder / MANIFEST))


def open_keys(folder: Path, names: tuple[str, ...]) -> RankKeys:
    """Magnitudes of a checkpoint that is mapped anew, so that its page faults are paid for, as in a stage."""
    return criterion_named("magnitude").keys(TensorFile(folder / WEIGHTS), names, None)


def count(keys: RankKeys) -> KeyHistogram:
    """The histogram stage."""
    return count_keys(keys, FINGERPRINT, "magnitude", None)


def pack_away(keys: RankKeys, histogram: KeyHistogram, scope: str, sparsity: str) -> int:
    """The mask stage with every packed block dropped as soon as it is there. Returns the number of weights kept."""
    return _without_file(lambda _: None, keys, histogram, scope, sparsity)


def pack_in_memory(keys: RankKeys, histogram: KeyHistogram, scope: str, sparsity: str) -> list[np.ndarray]:
    """The mask stage with the packed mask kept in memory."""
    chunks: list[np.ndarray] = []
    _without_file(chunks.append, keys, histogram, scope, sparsity)
    return chunks


def _without_file(
    take: Callable[[np.ndarray], None], keys: RankKeys, histogram: KeyHistogram, scope: str, sparsity: str
) -> int:
    """`write_mask` itself, but what it hands to the file goes to `take`."""

    def consume(_: Path, tensors: Iterable[TensorData], __: dict[str, str]) -> None:
        for tensor in tensors:
            for chunk in tensor.chunks:
                take(chunk)

    with patch("ltpipe.pruning.build.write_tensors", consume):
        return write_mask(Path("nowhere"), keys, histogram, scope, sparsity)


@dataclass
class ReadCounter:
    """Counts the weights that rank keys are handed out for."""

    weights: int = 0

    def watching(self, keys: RankKeys) -> RankKeys:
        """The same keys, counted as they go."""

        def blocks(name: str) -> Iterable[np.ndarray]:
            for block in keys.blocks(name):
                self.weights += block.size
                yield block

        return replace(keys, blocks=blocks)
