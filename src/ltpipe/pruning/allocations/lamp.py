"""LAMP: weights compete by their share of the weights left in their tensor (Lee et al. 2021, 2010.07611)."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ltpipe.pruning.allocation import Allocation, Request
from ltpipe.pruning.histogram import histogram_of
from ltpipe.pruning.scopes import groups
from ltpipe.pruning.scores import COPIED_CHUNK, FLOAT32_INFINITY, RankKeys
from ltpipe.pruning.thresholds import exact_cuts


def lamp(request: Request) -> list[int]:
    """Return how many weights each tensor loses if all weights compete by their LAMP scores."""
    scores = lamp_keys(request.keys)
    counted = histogram_of(scores, request.histogram.checkpoint, "lamp", None)
    (cuts,) = exact_cuts(scores, counted, [groups("global", request.asked, request.sizes)])
    return [cut.pruned for cut in cuts]


def lamp_keys(keys: RankKeys) -> RankKeys:
    """Return keys of the LAMP scores of each tensor, in sorted order (Lee et al. 2021, 2010.07611, equation 3).

    The score of a weight is w² / (sum of the squares of all weights of the tensor that are not smaller), and zero for
    zero; any criterion's score stands for |w|. It does not change the ranking inside a tensor, so it only decides how
    many of its weights are pruned. It is computed in float64 and rounded to float32; equal float32 scores are ties.

    Each pass sorts one tensor at a time, in memory.
    """
    return replace(keys, bits=31, infinite=FLOAT32_INFINITY, chunks=lambda name: _lamp(keys, name))


def _lamp(keys: RankKeys, name: str) -> Iterator[np.ndarray]:
    kind = np.uint16 if keys.bits == 15 else np.uint32
    ordered = np.concatenate([np.zeros(0, kind), *keys.chunks(name)])
    ordered &= kind((1 << keys.bits) - 1)
    ordered.sort()
    larger = 0.0
    for stop in range(ordered.size, 0, -COPIED_CHUNK):
        falling = keys.values(ordered[max(0, stop - COPIED_CHUNK) : stop][::-1])
        squares = np.square(falling, dtype=np.float64)
        sums = squares.copy()
        sums[0] += larger
        larger = float(np.cumsum(sums, out=sums)[-1])
        np.divide(squares, sums, out=squares, where=sums > 0)  # a sum of 0 leaves a square of 0
        yield squares.astype(np.float32).view(np.uint32)


ALLOCATION = Allocation(lamp, copies=2, nested=True)  # its keys in chunks, and joined
