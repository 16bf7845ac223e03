"""Summaries of a curve of retention against sparsity.

A curve goes through (0, 1), the dense model, and the tickets by rising sparsity. A bracket is measured: the last
winning and the first losing ticket. Straight lines between the points only give estimates: the curve is not straight,
and only the bracket bounds the error of an estimate.
"""

from dataclasses import dataclass

import numpy as np

from ltpipe.analysis.confidence import CONFIDENCE, Interval, interval
from ltpipe.evaluation.quality import WINNING_RETENTION


@dataclass(frozen=True)
class Curve:
    """Retention of tickets that differ only in sparsity.

    Attributes:
        sparsities: fractions, each once, rising: float64 [tickets].
        retentions: retentions of the tickets, float64 [tickets].
        resampled: the same on every resample, float64 [resamples, tickets].
        sequences: number of sequences in each resample.
    """

    sparsities: np.ndarray
    retentions: np.ndarray
    resampled: np.ndarray
    sequences: int

    @property
    def first_losing(self) -> int | None:
        """Index of the first ticket that loses, the end of the bracket; None if none does."""
        losing = np.flatnonzero(_losing(self.retentions))
        return int(losing[0]) if len(losing) else None

    @property
    def last_winning(self) -> int | None:
        """Index of the ticket before that, the beginning of the bracket; None where that is the dense model."""
        first = len(self.retentions) if self.first_losing is None else self.first_losing
        return first - 1 if first else None

    @property
    def crossings(self) -> int:
        """How often the curve falls from winning to losing; it recovers between two falls."""
        losing = np.concatenate([[False], _losing(self.retentions)])
        return int((losing[1:] & ~losing[:-1]).sum())

    def is_significant(self, ticket: int) -> bool | None:
        """Whether the interval of a ticket's retention excludes the winning threshold; None without an interval."""
        if self.sequences < 2:
            return None
        return interval(self.resampled[:, ticket], self.sequences).excludes(WINNING_RETENTION)

    @property
    def critical_estimate(self) -> float | None:
        """Where the line through the bracket's ends falls below a winning retention; None if no ticket loses."""
        return _finite(float(interpolated_crossing(self.sparsities, self.retentions[None])[0]))

    @property
    def estimate_interval(self) -> tuple[float | None, float | None]:
        """Interval of that estimate over samples of text; a bound is None where it is at least the largest sparsity.

        It shows how the interpolated number would vary, not the error of interpolating.
        """
        if self.sequences < 2:
            return None, None
        crossings = interpolated_crossing(self.sparsities, self.resampled)
        # Nothing can be interpolated between a number and "beyond the largest sparsity": only observed values count.
        bounds = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
        low, high = np.quantile(crossings, bounds, method="inverted_cdf")
        return _finite(float(low)), _finite(float(high))

    @property
    def area(self) -> float:
        """Area under the lines from 0 to the largest sparsity, which it equals if nothing is lost."""
        return float(area(self.sparsities, self.retentions[None])[0])

    @property
    def area_interval(self) -> Interval:
        """Its interval over samples of text."""
        return interval(area(self.sparsities, self.resampled), self.sequences)


def interpolated_crossing(
    sparsities: np.ndarray, retentions: np.ndarray, threshold: float = WINNING_RETENTION
) -> np.ndarray:
    """Smallest sparsity at which the lines of each curve cross from at least `threshold` to below it.

    Args:
        sparsities: [tickets], rising.
        retentions: [curves, tickets].
        threshold: at most 1.

    Returns:
        Float64 [curves], linearly interpolated; infinite for a curve that never falls below `threshold`, and 0 for one
        whose ticket of sparsity 0 lies below it.
    """
    x, y = _from_dense(sparsities, retentions)
    below = _losing(y, threshold)
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


def _losing(retentions: np.ndarray, threshold: float = WINNING_RETENTION) -> np.ndarray:
    return retentions < threshold


def _from_dense(sparsities: np.ndarray, retentions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Prepend the dense model to the curves, unless they begin with a ticket of sparsity 0."""
    if sparsities[0] == 0:
        return sparsities, retentions
    return np.insert(sparsities, 0, 0.0), np.insert(retentions, 0, 1.0, axis=1)


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
