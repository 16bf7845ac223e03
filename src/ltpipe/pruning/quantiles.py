"""Quantiles from histograms with equal bins: little memory, an error of at most one bin."""

from collections.abc import Callable, Iterable
from math import floor

import numpy as np

from ltpipe.runtime.errors import UserError


def histogram_quantile(chunks: Callable[[], Iterable[np.ndarray]], q: float, bins: int) -> float:
    """Approximate the quantile `q` of values that need not be in memory together.

    The bins divide the range of the values equally. Each of the two order statistics that `numpy.quantile` would
    interpolate between is placed inside its bin, so the result is at most one bin, (largest - smallest) / bins, away
    from that of `numpy.quantile`; it never decreases with `q`. Smallest and largest values are exact.

    Args:
        chunks: returns the values, float64, flat; called twice, with the same values both times.
        q: from 0 to 1.
        bins: number of bins; memory is O(bins + largest chunk).

    Raises:
        UserError: there are no values, some are not finite, or `q` or `bins` is out of range.
    """
    if not 0 <= q <= 1:
        raise UserError(f"quantile {q} is not allowed; use a number from 0 to 1")
    if bins < 1:
        raise UserError(f"bins: {bins} is not allowed; use 1 or more")
    lowest, highest, size = np.inf, -np.inf, 0
    for chunk in chunks():
        if not np.isfinite(chunk).all():
            raise UserError("some values are infinite or not a number; a quantile needs finite values")
        if chunk.size:
            lowest, highest, size = min(lowest, chunk.min()), max(highest, chunk.max()), size + chunk.size
    if not size:
        raise UserError("there are no values to take a quantile of")
    if lowest == highest:
        return float(lowest)
    counts = np.zeros(bins, np.int64)
    for chunk in chunks():
        places = ((chunk - lowest) / (highest - lowest) * bins).astype(np.int64)
        counts += np.bincount(np.minimum(places, bins - 1), minlength=bins)
    cumulative = np.cumsum(counts)

    def order_statistic(rank: int) -> float:
        if rank in (0, size - 1):
            return float(highest if rank else lowest)
        place = int(np.searchsorted(cumulative, rank, side="right"))
        inside = (rank - (cumulative[place] - counts[place]) + 0.5) / counts[place]
        return float(lowest + (place + inside) / bins * (highest - lowest))

    rank = q * (size - 1)
    below = order_statistic(floor(rank))
    above = order_statistic(min(floor(rank) + 1, size - 1))
    return below + (rank - floor(rank)) * (above - below)
