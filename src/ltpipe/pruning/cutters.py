"""Cutters: prune the tensors of a mask, at thresholds or run by run."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from ltpipe.pruning import kernels, matrix_kernels
from ltpipe.pruning.histogram import KeyHistogram, read_whole
from ltpipe.pruning.layout import Layout
from ltpipe.pruning.scopes import Group
from ltpipe.pruning.scores import RankKeys
from ltpipe.pruning.thresholds import Cut, exact_cuts


class Cutter(Protocol):
    """How every tensor of a mask is pruned."""

    @property
    def kept(self) -> Mapping[str, int]:
        """Number of weights that each tensor keeps: exact, known before any bit is packed."""
        ...

    @property
    def tied(self) -> int:
        """Number of packed weights whose ties were broken by position; 0 if tiles or units compete."""
        ...

    def packed(self, name: str) -> Iterator[np.ndarray]:
        """Yield the keep-bits of a tensor, packed little-endian (uint8), in blocks."""
        ...


@dataclass(frozen=True)
class ThresholdCutter:
    """Prunes each tensor at a threshold, streamed: extra memory is one block."""

    keys: RankKeys
    cuts: Mapping[str, Cut]

    @property
    def kept(self) -> Mapping[str, int]:
        """See `Cutter`."""
        sizes = zip(self.keys.names, self.keys.sizes, strict=True)
        return {name: size - self.cuts[name].pruned for name, size in sizes}

    @property
    def tied(self) -> int:
        """See `Cutter`."""
        return sum(cut.tied for cut in self.cuts.values())

    def packed(self, name: str) -> Iterator[np.ndarray]:
        """See `Cutter`."""
        cut = self.cuts[name]
        ties = cut.ties
        with self.keys.digested(name) as (blocks, seen):
            for block in blocks:
                bits, ties = kernels.pack(block, cut.threshold, ties, seen)
                yield bits


def threshold_cutter(keys: RankKeys, histogram: KeyHistogram, plan: Sequence[Group]) -> ThresholdCutter:
    """Return the cutter for groups of competing tensors, which contain every tensor once."""
    (cuts,) = exact_cuts(keys, histogram, [plan])
    return ThresholdCutter(keys, dict(zip(keys.names, cuts, strict=True)))


@dataclass(frozen=True)
class RunCutter:
    """Prunes the smallest weights of every run of neighbours along the input dimension.

    One tensor is in memory at a time.

    Attributes:
        keys, histogram, layout: the model's rank keys, their histogram, and its layout.
        lengths: length of the runs of each tensor; whole rows, or parts of them.
        counts: number of weights to prune in each tensor, spread evenly over its runs; earlier runs lose one more if
            it does not divide evenly.
        tied_in: number of weights of each packed tensor whose ties were broken by position.
    """

    keys: RankKeys
    histogram: KeyHistogram
    layout: Layout
    lengths: Sequence[int]
    counts: Sequence[int]
    tied_in: dict[str, int] = field(default_factory=dict)

    @property
    def kept(self) -> Mapping[str, int]:
        """See `Cutter`."""
        sizes = zip(self.keys.names, self.keys.sizes, self.counts, strict=True)
        return {name: size - count for name, size, count in sizes}

    @property
    def tied(self) -> int:
        """See `Cutter`."""
        return sum(self.tied_in.values())

    def packed(self, name: str) -> Iterator[np.ndarray]:
        """See `Cutter`."""
        index = self.keys.names.index(name)
        flat = read_whole(self.keys, self.histogram, name)
        kept = np.empty(flat.size, np.bool_)
        matrices, places = (self.layout.matrices(name, self.keys.shapes[index], array) for array in (flat, kept))
        runs = np.ascontiguousarray(matrices).reshape(-1, self.lengths[index])
        largest = matrix_kernels.keep_largest(runs, self.counts[index])
        self.tied_in[name] = matrix_kernels.tied(runs, largest)
        places[...] = largest.reshape(places.shape)
        yield np.packbits(kept, bitorder="little")
