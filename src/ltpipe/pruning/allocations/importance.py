"""Importance-weighted: tensors whose scores are high on average stay denser."""

from collections.abc import Sequence

from ltpipe.pruning.allocation import Allocation, by_shares, score_sums


def importance(sizes: Sequence[int], sums: Sequence[float], prune: int) -> list[int]:
    """Importance-weighted: the density of a tensor is proportional to its mean score, capped at 1.

    So the number of weights kept is proportional to the sum of the scores.

    Args:
        sizes: number of weights in each tensor.
        sums: sum of the scores of each tensor.
        prune: number of weights to prune.
    """
    return by_shares(sizes, sums, prune)


ALLOCATION = Allocation(lambda request: importance(request.sizes, score_sums(request.keys), request.prune))
