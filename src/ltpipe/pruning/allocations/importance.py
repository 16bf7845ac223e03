"""Importance-weighted: tensors whose scores are high on average stay denser."""

from collections.abc import Sequence

from ltpipe.pruning.allocation import Allocation, by_shares, score_sums


def importance(sizes: Sequence[int], sums: Sequence[float], prune: int) -> list[int]:
    """Importance-weighted: the density of a tensor is proportional to its mean score, and ends at 1.

    Proportional to the mean is: what is kept is proportional to the sum.

    Args:
        sizes: weights of each tensor.
        sums: of the scores of each tensor.
        prune: number of weights to prune.
    """
    return by_shares(sizes, sums, prune)


ALLOCATION = Allocation(lambda request: importance(request.sizes, score_sums(request.keys), request.prune))
