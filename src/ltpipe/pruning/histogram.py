"""Exact histograms of rank keys: one pass over the weights serves every sparsity and scope."""

import json
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path

import numpy as np

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.prunable import Selection
from ltpipe.checkpoints.tensorfile import artefact
from ltpipe.checkpoints.tensorwriter import TensorData, write_tensors
from ltpipe.pruning import kernels
from ltpipe.pruning.scorefile import rank_keys
from ltpipe.pruning.scores import CHUNK, COPIED_CHUNK, RankKeys
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.progress import track

FORMAT = "2"


@dataclass(frozen=True)
class SparseCounts:
    """The occupied bins of one tensor's histogram: `bins` ascending, `counts` (int64) the number of keys in each."""

    bins: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, dense: np.ndarray) -> "SparseCounts":
        """Keep the occupied bins of a dense histogram."""
        bins = np.flatnonzero(dense)
        return cls(bins, dense[bins])

    def at(self, position: int) -> int:
        """Return the count in one bin."""
        place = int(np.searchsorted(self.bins, position))
        found = place < len(self.bins) and self.bins[place] == position
        return int(self.counts[place]) if found else 0

    def below(self, position: int) -> int:
        """Return the count in all bins before `position`."""
        return int(self.counts[: np.searchsorted(self.bins, position)].sum())


@dataclass(frozen=True)
class KeyHistogram:
    """Per-tensor counts of rank keys (15 bits) or of their upper 16 bits (31 bits).

    Attributes:
        names, shapes, bits: as in `RankKeys`.
        counts: one histogram per tensor.
        checkpoint: fingerprint of the counted checkpoint.
        criterion, seed: criterion and seed of the counted scores.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    bits: int
    counts: tuple[SparseCounts, ...]
    checkpoint: str
    criterion: str
    seed: int | None

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of weights in each tensor."""
        return tuple(prod(shape) for shape in self.shapes)

    @property
    def total(self) -> int:
        """Number of prunable weights."""
        return sum(self.sizes)

    def write(self, path: Path) -> None:
        """Write as safetensors: bins and counts of all tensors concatenated, with the offset of each."""
        offsets = np.cumsum([0, *(len(counts.bins) for counts in self.counts)]).astype(np.int64)
        metadata = {
            "format": FORMAT,
            "kind": "histogram",
            "names": json.dumps(self.names),
            "shapes": json.dumps(self.shapes),
            "bits": str(self.bits),
            "checkpoint": self.checkpoint,
            "criterion": self.criterion,
            "seed": json.dumps(self.seed),
        }
        arrays: dict[str, np.ndarray] = {
            "counts": np.concatenate([counts.counts for counts in self.counts]).astype(np.int64),
            "offsets": offsets,
            "bins": np.concatenate([counts.bins for counts in self.counts]).astype(np.uint16),
        }
        write_tensors(path, [TensorData.of(name, array) for name, array in arrays.items()], metadata)

    @classmethod
    def read(cls, path: Path) -> "KeyHistogram":
        """Read a file that `write` wrote.

        Raises:
            DamagedFileError: it is not a histogram, or its counts do not add up.
        """
        with artefact(path, "histogram", FORMAT) as file:
            offsets, bins, counts = (file.array(name) for name in ("offsets", "bins", "counts"))
            histogram = cls(
                names=tuple(json.loads(file.metadata["names"])),
                shapes=tuple(tuple(shape) for shape in json.loads(file.metadata["shapes"])),
                bits=int(file.metadata["bits"]),
                counts=tuple(
                    SparseCounts(bins[begin:end].astype(np.int64), counts[begin:end])
                    for begin, end in pairwise(offsets)
                ),
                checkpoint=file.metadata["checkpoint"],
                criterion=file.metadata["criterion"],
                seed=json.loads(file.metadata["seed"]),
            )
            if not (histogram.seed is None or type(histogram.seed) is int):
                raise ValueError(f"seed {histogram.seed!r}")
            if tuple(int(counts.counts.sum()) for counts in histogram.counts) != histogram.sizes:
                raise ValueError("counts do not add up to the tensors' sizes")
        return histogram


def make_histogram(
    checkpoint: Checkpoint, criterion: str, seed: int | None, selection: Selection, scores: Path | None = None
) -> KeyHistogram:
    """Count the keys that a criterion gives the selected weights of a checkpoint.

    Args:
        checkpoint: the checkpoint.
        criterion: name of the criterion.
        seed: seed of a stochastic criterion.
        selection: weights to count.
        scores: file of the criterion's scores, if it has a score stage.

    Raises:
        UserError: the criterion is unknown, the selection is empty, the scores belong to another model or criterion, or
            a score is not finite.
    """
    names = selection.names(checkpoint.manifest)
    keys = rank_keys(checkpoint, criterion, seed, names, scores)
    return histogram_of(keys, checkpoint.fingerprint, criterion, seed)


def streaming_bytes(bits: int) -> int:
    """Return the peak bytes of counting or packing keys of 15 or 31 bits, whatever the size of the model.

    These are a chunk of packed bits for each of two limits and, for converted 31-bit keys, the chunk itself with two
    temporaries.
    """
    return 2 * (CHUNK // 8) + (3 * 4 * COPIED_CHUNK if bits == 31 else 0)


def histogram_of(keys: RankKeys, checkpoint: str, criterion: str, seed: int | None) -> KeyHistogram:
    """Count every key of every tensor, in one pass.

    Extra memory is one dense histogram, whatever the size of the model.

    Raises:
        UserError: a score is infinite or not a number.
    """
    coarse_infinite = keys.infinite if keys.bits == 15 else keys.infinite >> 15
    counted = []
    for name in track(keys.names, "counting"):
        dense = sum(map(kernels.count_coarse, keys.chunks(name)), _no_counts(keys))
        broken = int(dense[coarse_infinite:].sum())
        if broken:
            raise UserError(f"tensor '{name}' has {broken} weights that are infinite or not a number; fix the model")
        counted.append(SparseCounts.of(dense))
    return KeyHistogram(keys.names, keys.shapes, keys.bits, tuple(counted), checkpoint, criterion, seed)


def _no_counts(keys: RankKeys) -> np.ndarray:
    return np.zeros(kernels.coarse_bins(keys.bits), np.int64)


def read_whole(keys: RankKeys, histogram: KeyHistogram, name: str) -> np.ndarray:
    """Return all keys of one tensor in memory, flat; not copied if they are a single mapped chunk.

    Raises:
        UserError: they are not the keys that were counted.
    """
    chunks = list(keys.chunks(name))
    dense = sum(map(kernels.count_coarse, chunks), _no_counts(keys))
    now, then = SparseCounts.of(dense), histogram.counts[keys.names.index(name)]
    if not (np.array_equal(now.bins, then.bins) and np.array_equal(now.counts, then.counts)):
        raise UserError(changed(name))
    return chunks[0] if len(chunks) == 1 else np.concatenate(chunks)


def changed(name: str) -> str:
    """Return the error message for a tensor whose keys are not those that were counted."""
    return f"tensor '{name}' changed since it was counted; run the histogram stage again"
