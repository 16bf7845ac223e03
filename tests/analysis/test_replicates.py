"""Intervals over replicates against Student's table and a simulation."""

import math
from statistics import mean, stdev

import numpy as np
import pytest

from ltpipe.analysis.replicates import averaged, estimate, paired

T975 = {1: 12.7062, 2: 4.3027, 4: 2.7764, 9: 2.2622, 30: 2.0423}
"""Student's t, two-sided 95 %, by degrees of freedom, from a printed table."""


@pytest.mark.parametrize("degrees", T975)
def test_the_interval_is_that_of_the_table(degrees):
    values = [0.97 + 0.01 * math.sin(index**2) for index in range(degrees + 1)]
    found = estimate(values)
    half = T975[degrees] * stdev(values) / math.sqrt(degrees + 1)
    assert found.replicates == degrees + 1
    assert found.mean == pytest.approx(mean(values))
    assert (found.interval.low, found.interval.high) == pytest.approx((mean(values) - half, mean(values) + half), 1e-4)


def test_five_normal_replicates_cover_the_truth_in_95_of_100_cases():
    samples = np.random.default_rng(0).normal(3, 2, (4000, 5))
    covered = [not estimate(list(sample)).interval.excludes(3) for sample in samples]
    assert 0.94 < mean(covered) < 0.96


@pytest.mark.parametrize("values", [[0.97], [0.97] * 5, [0.1 + 0.2, 0.3], [1e6 + 1e-4, 1e6]])
def test_without_spread_there_is_no_interval_and_no_verdict(values):
    found = estimate(values)
    assert found.mean == pytest.approx(values[0])
    assert math.isnan(found.interval.low)
    assert math.isnan(found.interval.high)
    assert {found.above(-9e9), found.above(9e9), found.below(-9e9), found.below(9e9)} == {"undecided"}


def test_no_replicates_are_refused():
    with pytest.raises(ValueError, match="no replicates"):
        estimate([])
    assert paired({0: 1.0}, {1: 1.0}) is None


def test_differences_are_paired_by_replicate():
    """Replicates differ by far more than branches do: only pairing shows the difference."""
    dense = {0: 0.90, 1: 0.95, 2: 0.99, 3: 0.80}
    ticket = {3: 0.812, 2: 1.001, 1: 0.959, 0: 0.912, 7: 0.1}
    found = paired(ticket, dense)
    assert found.replicates == 4
    assert found.mean == pytest.approx((0.012 + 0.009 + 0.011 + 0.012) / 4)
    assert found.above(0.0) == "yes"
    unpaired = estimate(list(ticket.values())[:4])
    assert unpaired.interval.low < 0.9 < unpaired.interval.high


def test_seeds_are_averaged_within_their_replicate():
    """Three copies of one value carry no more than one: the interval is that of the replicates' means."""
    seeds = [(1, 0.4), (0, 0.1), (0, 0.3), (1, 0.4), (0, 0.2)]
    assert averaged(seeds) == pytest.approx({0: 0.2, 1: 0.4})
    assert list(averaged(seeds)) == [0, 1]
    found = estimate(list(averaged(seeds).values()))
    assert (found.replicates, found.mean) == (2, pytest.approx(0.3))
    assert found.interval.high - found.mean == pytest.approx(12.7062 * stdev([0.2, 0.4]) / math.sqrt(2), 1e-4)


@pytest.mark.parametrize(
    ("limit", "above", "below"),
    [(0.0, "yes", "no"), (0.96, "undecided", "undecided"), (1.0, "undecided", "undecided"), (2.0, "no", "yes")],
)
def test_a_verdict_needs_the_whole_interval(limit, above, below):
    found = estimate([0.9, 1.0, 1.1])
    assert (found.above(limit), found.below(limit)) == (above, below)
