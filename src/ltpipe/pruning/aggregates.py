"""What layer allocations go by: numbers about the scores of whole tensors and blocks, streamed."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from math import fsum

import numpy as np

from ltpipe.pruning import matrix_kernels
from ltpipe.pruning.scores import COPIED_BLOCK, FLOAT32_INFINITY, RankKeys

OWL_MULTIPLE = 5
"""M of OWL: a score so many times the mean is an outlier."""


def score_sums(keys: RankKeys) -> list[float]:
    """Sum of the scores of each tensor, from one pass."""
    return [fsum(matrix_kernels.total(values) for values in _values(keys, name)) for name in keys.names]


def outlier_ratios(
    keys: RankKeys, blocks: Sequence[str | None], multiple: float = OWL_MULTIPLE
) -> list[Fraction | None]:
    """Layerwise outlier distribution D of OWL (Yin et al. 2023, 2310.05175, equation 1), from two passes.

    Of the block that each tensor is in, the fraction of its scores above `multiple` times their mean; None for tensors
    in no block.
    """
    sums, sizes = defaultdict(list), defaultdict(int)
    for tensor_sum, size, block in zip(score_sums(keys), keys.sizes, blocks, strict=True):
        sums[block].append(tensor_sum)
        sizes[block] += size
    limits = {block: np.float64(multiple * fsum(sums[block]) / sizes[block]) for block in sums}
    above = defaultdict(int)
    for name, block in zip(keys.names, blocks, strict=True):
        if block is not None:
            above[block] += sum(int(np.count_nonzero(values > limits[block])) for values in _values(keys, name))
    return [None if block is None else Fraction(above[block], sizes[block]) for block in blocks]


def lamp_keys(keys: RankKeys) -> RankKeys:
    """Keys of the LAMP scores of each tensor, in an order of their own (Lee et al. 2021, 2010.07611, equation 3).

    The score of a weight is w² / (sum of the squares of all weights of the tensor that are not smaller), and that of
    zero is zero; any criterion's score stands for |w|. It orders the weights of a tensor as they were, so what it says
    is how many of them go. Computed in float64, then float32: scores that it cannot tell apart are ties.

    Each pass sorts one tensor at a time, in memory.
    """
    return replace(keys, bits=31, infinite=FLOAT32_INFINITY, blocks=lambda name: _lamp(keys, name))


def _lamp(keys: RankKeys, name: str) -> Iterator[np.ndarray]:
    kind = np.uint16 if keys.bits == 15 else np.uint32
    ordered = np.concatenate([np.zeros(0, kind), *keys.blocks(name)])
    ordered &= kind((1 << keys.bits) - 1)
    ordered.sort()
    larger = 0.0
    for stop in range(ordered.size, 0, -COPIED_BLOCK):
        falling = keys.values(ordered[max(0, stop - COPIED_BLOCK) : stop][::-1])
        scores, larger = matrix_kernels.lamp_scores(falling, larger)
        yield scores.view(np.uint32)


def _values(keys: RankKeys, name: str) -> Iterator[np.ndarray]:
    """Scores of a tensor, float32, in pieces small enough to be converted."""
    for block in keys.blocks(name):
        for start in range(0, block.size, COPIED_BLOCK):
            yield keys.values(block[start : start + COPIED_BLOCK])
