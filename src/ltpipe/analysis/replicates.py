"""Means and paired differences over replicates, with 95 % Student's t intervals (Student 1908).

A replicate starts from its own initial weights. Replicates are independent of each other; branches of one replicate are
not: they share initial weights, data order and, except for the dense model, a mask. So a difference between two
branches is taken within each replicate, and its interval is that of the mean of these differences. Several seeds of a
control are first averaged within their replicate.

The intervals assume that the replicates' values, or differences, come from a normal distribution of unknown variance.
With as few as five replicates that cannot be checked. They are not corrected for the number of comparisons.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import nan, sqrt
from statistics import fmean, stdev
from typing import Literal

from ltpipe.analysis.confidence import CONFIDENCE, Interval

Holds = Literal["yes", "no", "undecided"]
NO_SPREAD = 1e-9
"""Values that differ only by rounding, relative to their size or to 1, show no spread."""


@dataclass(frozen=True)
class Estimate:
    """Mean over replicates.

    Attributes:
        mean: mean of the values.
        interval: 95 % interval of the population's mean. NaN if there is none: a single replicate has no spread, and
            equal values only show how coarse their measure is.
        replicates: number of values.
    """

    mean: float
    interval: Interval
    replicates: int

    def above(self, limit: float) -> Holds:
        """Whether the mean lies above a limit: yes or no only if the whole interval does; undecided without one."""
        return "yes" if self.interval.low > limit else "no" if self.interval.high <= limit else "undecided"

    def below(self, limit: float) -> Holds:
        """Whether the mean lies below a limit."""
        return "yes" if self.interval.high < limit else "no" if self.interval.low >= limit else "undecided"


def estimate(values: Sequence[float]) -> Estimate:
    """Return mean and interval of one value per replicate: mean ± t(0.975, n - 1) s / sqrt(n), s with n - 1.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("there are no replicates")
    mean, count = fmean(values), len(values)
    spread = stdev(values) if count > 1 else 0.0
    half = _t_quantile(count - 1) * spread / sqrt(count) if spread > NO_SPREAD * max(1.0, abs(mean)) else nan
    return Estimate(mean, Interval(mean - half, mean + half), count)


def averaged(values: Iterable[tuple[int, float]]) -> dict[int, float]:
    """Return one value per replicate from pairs of replicate and value, averaging over seeds."""
    found: dict[int, list[float]] = {}
    for replicate, value in values:
        found.setdefault(replicate, []).append(value)
    return {replicate: fmean(found[replicate]) for replicate in sorted(found)}


def paired(values: Mapping[int, float], reference: Mapping[int, float]) -> Estimate | None:
    """Return value minus reference over the replicates that have both; None if none has."""
    both = sorted(values.keys() & reference.keys())
    return estimate([values[replicate] - reference[replicate] for replicate in both]) if both else None


@cache
def _t_quantile(degrees: int) -> float:
    from scipy.stats import t  # takes a second to load, and reports without trainings need none

    return float(t.ppf((1 + CONFIDENCE) / 2, degrees))
