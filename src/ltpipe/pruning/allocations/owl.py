"""OWL: blocks of the model with more outliers lose less (Yin et al. 2023, 2310.05175)."""

from collections import defaultdict
from collections.abc import Sequence
from fractions import Fraction
from math import fsum

import numpy as np

from ltpipe.pruning.allocation import Allocation, apportion, score_sums, score_values
from ltpipe.pruning.scores import RankKeys

WINDOW = Fraction("0.08")
"""λ: how far the sparsity of a block may be from the average. The paper's choice for large language models."""

MULTIPLE = 5
"""M: a score so many times the mean is an outlier."""


def owl(
    sizes: Sequence[int],
    blocks: Sequence[str | None],
    outliers: Sequence[Fraction | None],
    sparsity: Fraction,
    prune: int,
    window: Fraction = WINDOW,
) -> list[int]:
    """OWL: blocks of the model with more outliers lose less (Yin et al. 2023, 2310.05175, section 3).

    Densities of blocks are linear in their outlier ratios and span 2 `window`, as in the authors' code. They are then
    shifted together until all tensors lose `sparsity` of their weights. Two deviations from that code, which shifts by
    the plain mean over blocks: blocks count by their weights, so that the total is exact, and sparsities are clipped
    to `sparsity` ± `window` and to 0 … 1 as the paper says. If all ratios are equal, so are all sparsities.

    Args:
        sizes: weights of each tensor.
        blocks: the block of the model that each tensor is in. Inside a block every tensor has the block's sparsity;
            tensors outside (None) have `sparsity`.
        outliers: ratio of outliers in the tensor's block; None outside.
        sparsity: average.
        prune: number of weights to prune, `sparsity` of all, rounded.
        window: how far the sparsity of a block may be from the average.
    """
    ratio = {block: ratio for block, ratio in zip(blocks, outliers, strict=True) if block is not None}
    weights = dict.fromkeys(ratio, 0)
    for size, block in zip(sizes, blocks, strict=True):
        if block is not None:
            weights[block] += size
    sparsities = dict(
        zip(ratio, _in_window(list(ratio.values()), list(weights.values()), sparsity, window), strict=True)
    )
    return apportion([size * sparsities.get(block, sparsity) for size, block in zip(sizes, blocks, strict=True)], prune)


def _in_window(
    ratios: Sequence[Fraction], weights: Sequence[int], sparsity: Fraction, window: Fraction
) -> list[Fraction]:
    """Sparsities that fall with the ratios, inside the window, whose weighted mean is exactly `sparsity`."""
    spread = max(ratios, default=Fraction(0)) - min(ratios, default=Fraction(0))
    if spread == 0:
        return [sparsity] * len(ratios)
    low, high = max(Fraction(0), sparsity - window), min(Fraction(1), sparsity + window)
    falls = [2 * window * (ratio - min(ratios)) / spread for ratio in ratios]

    def clipped(shift: Fraction) -> list[Fraction]:
        return [min(max(shift - fall, low), high) for fall in falls]

    def missing(shift: Fraction) -> Fraction:
        return sparsity * sum(weights) - sum(
            weight * part for weight, part in zip(weights, clipped(shift), strict=True)
        )

    # The weighted sum rises with the shift and is linear between the shifts at which a block enters or leaves the
    # window; it passes the wanted sum between two of them.
    kinks = sorted({fall + end for fall in falls for end in (low, high)})
    below = max(kink for kink in kinks if missing(kink) >= 0)
    above = min((kink for kink in kinks if missing(kink) <= 0), default=below)
    if missing(below) == 0:
        return clipped(below)
    slope = missing(below) - missing(above)
    return clipped(below + (above - below) * missing(below) / slope)


def outlier_ratios(keys: RankKeys, blocks: Sequence[str | None], multiple: float = MULTIPLE) -> list[Fraction | None]:
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
            above[block] += sum(int(np.count_nonzero(values > limits[block])) for values in score_values(keys, name))
    return [None if block is None else Fraction(above[block], sizes[block]) for block in blocks]


ALLOCATION = Allocation(
    lambda request: owl(
        request.sizes, request.blocks, outlier_ratios(request.keys, request.blocks), request.sparsity, request.prune
    )
)
