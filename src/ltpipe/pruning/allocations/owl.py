"""OWL: blocks of the model with more outliers lose less (Yin et al. 2023, 2310.05175)."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import fsum

import numpy as np

from ltpipe.pruning.allocation import Allocation, Request, apportion, score_sums, score_values
from ltpipe.pruning.scores import RankKeys
from ltpipe.runtime.errors import UserError


@dataclass(frozen=True)
class Options:
    """Options of OWL.

    Attributes:
        window: λ, how far the sparsity of a block may be from the average; 0.08 as in the paper and its code.
        multiple: M, the multiple of the mean above which a score is an outlier; 5 as in the commands of the paper's
            code, whose own default is 3.
        clip: whether sparsities stay in the window, as the paper says; its code shifts them by their mean, so some lie
            outside.
    """

    window: float = 0.08
    multiple: float = 5.0
    clip: bool = True

    def __post_init__(self) -> None:
        """Reject values out of range."""
        if not 0 <= self.window <= 1:
            raise UserError(f"window: {self.window:g} is not allowed; use a number from 0 to 1")
        if self.multiple <= 0:
            raise UserError(f"multiple: {self.multiple:g} is not allowed; use a number above 0")


def owl(
    sizes: Sequence[int],
    blocks: Sequence[str | None],
    outliers: Sequence[Fraction | None],
    sparsity: Fraction,
    prune: int,
    options: Options = Options(),
) -> list[int]:
    """OWL: blocks of the model with more outliers lose less (Yin et al. 2023, 2310.05175, section 3).

    Densities of blocks are linear in their outlier ratios and span 2 λ, as in the authors' code. They are then shifted
    together until all tensors lose `sparsity` of their weights. That code shifts by the plain mean over blocks; here
    blocks are weighted by their size so that the total is exact, which is the same for blocks of equal size. Sparsities
    are clipped to 0 … 1, and with `clip` to `sparsity` ± λ. If all ratios are equal, so are all sparsities.

    Args:
        sizes: number of weights in each tensor.
        blocks: each tensor's block in the model. Inside a block every tensor has the block's sparsity; tensors outside
            (None) have `sparsity`.
        outliers: ratio of outliers in the tensor's block; None outside.
        sparsity: average sparsity.
        prune: number of weights to prune, `sparsity` of all, rounded.
        options: λ, and whether to clip.
    """
    ratio = {
        block: ratio for block, ratio in zip(blocks, outliers, strict=True) if block is not None and ratio is not None
    }
    weights = dict.fromkeys(ratio, 0)
    for size, block in zip(sizes, blocks, strict=True):
        if block is not None:
            weights[block] += size
    sparsities = dict(
        zip(ratio, _in_window(list(ratio.values()), list(weights.values()), sparsity, options), strict=True)
    )
    wanted = [sparsity if block is None else sparsities[block] for block in blocks]
    return apportion([size * share for size, share in zip(sizes, wanted, strict=True)], prune)


def _in_window(
    ratios: Sequence[Fraction], weights: Sequence[int], sparsity: Fraction, options: Options
) -> list[Fraction]:
    """Return sparsities that decrease with the ratios, within limits, with a weighted mean of exactly `sparsity`."""
    spread = max(ratios, default=Fraction(0)) - min(ratios, default=Fraction(0))
    if spread == 0:
        return [sparsity] * len(ratios)
    window = Fraction(str(options.window))
    far = window if options.clip else Fraction(1)
    low, high = max(Fraction(0), sparsity - far), min(Fraction(1), sparsity + far)
    falls = [2 * window * (ratio - min(ratios)) / spread for ratio in ratios]

    def clipped(shift: Fraction) -> list[Fraction]:
        return [min(max(shift - fall, low), high) for fall in falls]

    def missing(shift: Fraction) -> Fraction:
        return sparsity * sum(weights) - sum(
            weight * part for weight, part in zip(weights, clipped(shift), strict=True)
        )

    # The weighted sum rises with the shift and is linear between the shifts at which a block enters or leaves the
    # window; it crosses the wanted sum between two of them.
    kinks = sorted({fall + end for fall in falls for end in (low, high)})
    below = max(kink for kink in kinks if missing(kink) >= 0)
    above = min((kink for kink in kinks if missing(kink) <= 0), default=below)
    if missing(below) == 0:
        return clipped(below)
    slope = missing(below) - missing(above)
    return clipped(below + (above - below) * missing(below) / slope)


def outlier_ratios(
    keys: RankKeys, blocks: Sequence[str | None], multiple: float = Options.multiple
) -> list[Fraction | None]:
    """Return the layerwise outlier distribution D of OWL (Yin et al. 2023, 2310.05175, equation 1), from two passes.

    For each tensor, this is the fraction of its block's scores above `multiple` times their mean; None for tensors
    outside the blocks.
    """
    sums: dict[str | None, list[float]] = defaultdict(list)
    sizes: dict[str | None, int] = defaultdict(int)
    for tensor_sum, size, block in zip(score_sums(keys), keys.sizes, blocks, strict=True):
        sums[block].append(tensor_sum)
        sizes[block] += size
    limits = {block: np.float64(multiple * fsum(sums[block]) / sizes[block]) for block in sums}
    above: dict[str, int] = defaultdict(int)
    for name, block in zip(keys.names, blocks, strict=True):
        if block is not None:
            above[block] += sum(int(np.count_nonzero(values > limits[block])) for values in score_values(keys, name))
    return [None if block is None else Fraction(above[block], sizes[block]) for block in blocks]


def allocated(request: Request) -> list[int]:
    """Return how many weights each tensor loses."""
    outliers = outlier_ratios(request.keys, request.blocks, request.options.multiple)
    return owl(request.sizes, request.blocks, outliers, request.sparsity, request.prune, request.options)


ALLOCATION = Allocation(allocated, options=Options)
