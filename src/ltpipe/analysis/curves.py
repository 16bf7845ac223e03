"""Numbers that sum up a curve of retention against sparsity.

A curve goes through (0, 1), the dense model, and the tickets by rising sparsity, with straight lines between them.
"""

from dataclasses import dataclass

import numpy as np

from ltpipe.analysis.confidence import LEVEL, Interval, interval
from ltpipe.evaluation.quality import WINNING_RETENTION


@dataclass(frozen=True)
class Curve:
    """Retention of tickets that differ only in sparsity.

    Attributes:
        sparsities: fractions, each once, rising: float64 [tickets].
        retentions: of the tickets: float64 [tickets].
        resampled: the same on every resample, float64 [resamples, tickets].
        sequences: how many the resamples are of.
    """

    sparsities: np.ndarray
    retentions: np.ndarray
    resampled: np.ndarray
    sequences: int

    @property
    def critical_sparsity(self) -> float | None:
        """Where retention first falls below that of a winning ticket; None: at least the largest sparsity."""
        return _finite(float(critical_sparsity(self.sparsities, self.retentions[None])[0]))

    @property
    def critical_interval(self) -> tuple[float | None, float | None]:
        """Its interval; a bound is None where it is at least the largest sparsity."""
        if self.sequences < 2:
            return None, None
        crossings = critical_sparsity(self.sparsities, self.resampled)
        # Between a number and "beyond the largest sparsity" there is nothing to interpolate: observed values only.
        levels = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
        low, high = np.quantile(crossings, levels, method="inverted_cdf")
        return _finite(float(low)), _finite(float(high))

    @property
    def area(self) -> float:
        """Area under the curve from 0 to the largest sparsity, which it equals if nothing is lost."""
        return float(area(self.sparsities, self.retentions[None])[0])

    @property
    def area_interval(self) -> Interval:
        """Its interval."""
        return interval(area(self.sparsities, self.resampled), self.sequences)


def critical_sparsity(
    sparsities: np.ndarray, retentions: np.ndarray, threshold: float = WINNING_RETENTION
) -> np.ndarray:
    """Smallest sparsity at which each curve crosses from at least `threshold` to below it.

    Args:
        sparsities: [tickets], rising.
        retentions: [curves, tickets].
        threshold: at most 1.

    Returns:
        Float64 [curves], linearly interpolated; infinite for a curve that never falls below `threshold`, and 0 for one
        whose ticket of sparsity 0 lies below it.
    """
    x, y = _from_dense(sparsities, retentions)
    below = y < threshold
    after = below.argmax(axis=1)  # the first below; 0 also if none is
    before = np.maximum(after - 1, 0)
    curves = np.arange(len(y))
    high, low = y[curves, before], y[curves, after]
    drop = np.where(high > low, high - low, 1.0)
    crossing = x[before] + (x[after] - x[before]) * (high - threshold) / drop
    return np.where(below.any(axis=1), np.where(after == 0, x[0], crossing), np.inf)


def area(sparsities: np.ndarray, retentions: np.ndarray) -> np.ndarray:
    """Area under each curve [curves, tickets] by the trapezoidal rule: float64 [curves]."""
    x, y = _from_dense(sparsities, retentions)
    return np.trapezoid(y, x, axis=1)


def _from_dense(sparsities: np.ndarray, retentions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The curves with the dense model at their beginning, unless a ticket of sparsity 0 stands there."""
    if sparsities[0] == 0:
        return sparsities, retentions
    return np.insert(sparsities, 0, 0.0), np.insert(retentions, 0, 1.0, axis=1)


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
