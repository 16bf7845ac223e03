"""Cutters: how every tensor of a mask is pruned, at thresholds or run by run."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ltpipe.pruning import kernels, matrix_kernels
from ltpipe.pruning.histogram import KeyHistogram, read_whole
from ltpipe.pruning.layout import Layout
from ltpipe.pruning.scopes import Group
from ltpipe.pruning.scores import RankKeys
from ltpipe.pruning.thresholds import exact_cuts


@dataclass(frozen=True)
class Cutter:
    """How every tensor of a mask is pruned.

    Attributes:
        kept: number of weights that each tensor keeps: exact, known before any bit is packed.
        packed: function from a tensor's name to its keep-bits, packed little-endian (uint8), in chunks.
        tied: number of weights of each packed tensor whose ties were broken by position; empty if tiles or units
            compete.
    """

    kept: Mapping[str, int]
    packed: Callable[[str], Iterator[np.ndarray]]
    tied: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(
        cls, keys: RankKeys, pruned: Sequence[int], packed: Callable[[str], Iterator[np.ndarray]], tied: Counter[str]
    ) -> "Cutter":
        """Return the cutter that prunes a number of weights in each tensor."""
        sizes = zip(keys.names, keys.sizes, pruned, strict=True)
        return cls({name: size - count for name, size, count in sizes}, packed, tied)


def threshold_cutter(keys: RankKeys, histogram: KeyHistogram, plan: Sequence[Group]) -> Cutter:
    """Return the cutter for groups of competing tensors, which contain every tensor once.

    It is streamed: extra memory is one chunk.
    """
    (cuts,) = exact_cuts(keys, histogram, [plan])
    tied = Counter(dict(zip(keys.names, (cut.tied for cut in cuts), strict=True)))

    def packed(name: str) -> Iterator[np.ndarray]:
        cut = cuts[keys.names.index(name)]
        ties = cut.ties
        for chunk in keys.chunks(name):
            bits, ties = kernels.pack(chunk, cut.threshold, ties)
            yield bits

    return Cutter.of(keys, [cut.pruned for cut in cuts], packed, tied)


def run_cutter(
    keys: RankKeys, histogram: KeyHistogram, layout: Layout, lengths: Sequence[int], counts: Sequence[int]
) -> Cutter:
    """Return the cutter that prunes the smallest weights of every run of neighbours along the input dimension.

    One tensor is in memory at a time.

    Args:
        keys: the model's rank keys.
        histogram: their histogram.
        layout: the model's layout.
        lengths: length of the runs of each tensor; whole rows, or parts of them.
        counts: number of weights to prune in each tensor, spread evenly over its runs; earlier runs lose one more if
            it does not divide evenly.
    """
    tied: Counter[str] = Counter()

    def packed(name: str) -> Iterator[np.ndarray]:
        index = keys.names.index(name)
        flat = read_whole(keys, histogram, name)
        kept = np.empty(flat.size, np.bool_)
        matrices, places = (layout.matrices(name, keys.shapes[index], array) for array in (flat, kept))
        runs = np.ascontiguousarray(matrices).reshape(-1, lengths[index])
        largest = matrix_kernels.keep_largest(runs, counts[index])
        tied[name] = matrix_kernels.tied(runs, largest)
        places[...] = largest.reshape(places.shape)
        yield np.packbits(kept, bitorder="little")

    return Cutter.of(keys, counts, packed, tied)
