"""Layer allocations: how many weights each tensor loses. Exact arithmetic throughout.

Every function returns one count a tensor, in the order given, with 0 <= count <= size and a sum of exactly `prune`.
Ideal counts are fractions; `apportion` rounds them.
"""

from collections.abc import Sequence
from fractions import Fraction
from math import prod

OWL_WINDOW = Fraction("0.08")
"""λ of OWL: how far the sparsity of a block may be from the average. The paper's choice for large language models."""


def apportion(quotas: Sequence[Fraction], total: int) -> list[int]:
    """Round fractions to whole numbers of the given sum: all down, then the largest remainders up.

    Among equal remainders the earlier goes up: as everywhere, among equals the earlier loses first.

    Args:
        quotas: not negative; their sum differs from `total` by less than one.
        total: sum of the result.
    """
    counts = [quota.numerator // quota.denominator for quota in quotas]
    by_remainder = sorted(range(len(quotas)), key=lambda index: (counts[index] - quotas[index], index))
    for index in by_remainder[: total - sum(counts)]:
        counts[index] += 1
    return counts


def by_shares(sizes: Sequence[int], shares: Sequence[Fraction | float], prune: int) -> list[int]:
    """Keep weights in proportion to `shares`, but never more than a tensor has.

    A tensor whose share is more than its size is kept whole, and the rest is scaled up, until all fit. If nothing but
    shares of zero is left, what remains to be kept is kept in proportion to size.

    Args:
        sizes: weights of each tensor.
        shares: of the kept weights, not negative, in any unit.
        prune: number of weights to prune.
    """
    parts = [Fraction(share) for share in shares]
    keep: dict[int, Fraction] = {}
    open_ = [index for index, size in enumerate(sizes) if size]
    left = Fraction(sum(sizes) - prune)
    while open_:
        whole = sum(parts[index] for index in open_)
        if whole == 0:
            parts, whole = [Fraction(size) for size in sizes], sum(sizes[index] for index in open_)
        scale = left / whole
        full = [index for index in open_ if parts[index] * scale > sizes[index]]
        if not full:
            keep |= {index: parts[index] * scale for index in open_}
            break
        keep |= {index: Fraction(sizes[index]) for index in full}
        left -= sum(sizes[index] for index in full)
        open_ = [index for index in open_ if index not in keep]
    return apportion([size - keep.get(index, 0) for index, size in enumerate(sizes)], prune)


def erk(shapes: Sequence[Sequence[int]], prune: int) -> list[int]:
    """Erdős-Rényi-Kernel: the density of a tensor is proportional to (sum of its dimensions) / (their product).

    Mocanu et al. 2018 (1707.04780) for matrices, Evci et al. 2020 (RigL, 1911.11134) for kernels. Densities end at 1,
    where the rest is scaled up, as in RigL's code.

    Args:
        shapes: [experts, out, in, …] of each tensor; a stack of matrices counts as so many matrices of its own, so
            that it does not matter whether a checkpoint fuses its experts.
        prune: number of weights to prune.
    """
    return by_shares([prod(shape) for shape in shapes], [shape[0] * sum(shape[1:]) for shape in shapes], prune)


def importance(sizes: Sequence[int], sums: Sequence[float], prune: int) -> list[int]:
    """Importance-weighted: the density of a tensor is proportional to its mean score, and ends at 1.

    Proportional to the mean is: what is kept is proportional to the sum.

    Args:
        sizes: weights of each tensor.
        sums: of the scores of each tensor.
        prune: number of weights to prune.
    """
    return by_shares(sizes, sums, prune)


def owl(
    sizes: Sequence[int],
    blocks: Sequence[str | None],
    outliers: Sequence[Fraction | None],
    sparsity: Fraction,
    prune: int,
    window: Fraction = OWL_WINDOW,
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
