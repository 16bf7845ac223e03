"""Critical sparsity and area against curves worked out by hand."""

import numpy as np
import pytest

from ltpipe.analysis.curves import Curve, area, interpolated_crossing


def crossing(sparsities, retentions):
    return float(interpolated_crossing(np.array(sparsities, float), np.array([retentions], float))[0])


@pytest.mark.parametrize(
    ("sparsities", "retentions", "expected"),
    [
        ([0.2, 0.4], [1.0, 0.8], 0.3),
        ([0.2, 0.4], [0.92, 0.88], 0.3),
        ([0.5], [0.8], 0.25),  # from the dense model down
        ([0.2, 0.4, 0.6], [1.05, 0.9, 0.8], 0.4),  # 0.9 itself still wins
        ([0.2, 0.4, 0.6, 0.8], [0.8, 0.95, 0.95, 0.1], 0.1),  # the first crossing counts
        ([0.0, 0.5], [1.0, 0.8], 0.25),
        ([0.0, 0.5], [0.8, 0.7], 0.0),
        ([0.2, 0.4], [1.0, 0.9], np.inf),
        ([0.2], [1.0], np.inf),
    ],
)
def test_interpolated_crossing(sparsities, retentions, expected):
    assert crossing(sparsities, retentions) == pytest.approx(expected)


def test_curves_are_looked_at_one_by_one():
    generator = np.random.default_rng(0)
    sparsities = np.array([0.1, 0.3, 0.6, 0.9])
    retentions = 1.1 - sparsities * generator.random((200, 4))
    together = interpolated_crossing(sparsities, retentions)
    for row, found in zip(retentions, together, strict=True):
        x, y = np.insert(sparsities, 0, 0), np.insert(row, 0, 1)
        fine = np.linspace(0, 0.9, 90_001)
        below = fine[np.interp(fine, x, y) < 0.9]
        assert found == pytest.approx(below[0] if len(below) else np.inf, abs=2e-5)


def test_area_is_that_of_the_trapezoids_from_the_dense_model_on():
    areas = area(np.array([0.2, 0.6]), np.array([[1.0, 1.0], [0.5, 0.0]]))
    assert areas == pytest.approx([0.6, 0.2 * 0.75 + 0.4 * 0.25])
    assert area(np.array([0.0, 0.6]), np.array([[0.5, 0.5]])) == pytest.approx([0.3])


def noisy(center, spread=0.02, sequences=16):
    sparsities = np.array([0.2, 0.4])
    generator = np.random.default_rng(1)
    resampled = np.array(center) + generator.normal(0, spread, (10_000, 1))
    return Curve(sparsities, np.array(center), resampled, sequences)


@pytest.mark.parametrize(
    ("sparsities", "retentions", "bracket", "crossings"),
    [
        ([0.3, 0.5], [0.95, 0.8], (0.3, 0.5), 1),
        ([0.3, 0.5], [0.8, 0.7], (None, 0.3), 1),  # the dense model is the last that wins
        ([0.3, 0.5], [0.95, 0.9], (0.5, None), 0),  # 0.9 itself still wins
        ([0.1, 0.2, 0.3, 0.4], [0.95, 0.8, 0.95, 0.7], (0.1, 0.2), 2),  # the first fall counts
        ([0.1, 0.2, 0.3], [0.8, 0.7, 0.95], (None, 0.1), 1),
        ([0.0, 0.5], [1.0, 0.8], (0.0, 0.5), 1),
        ([0.0, 0.5], [0.8, 0.7], (None, 0.0), 1),
    ],
)
def test_the_bracket_holds_the_first_fall_and_the_estimate(sparsities, retentions, bracket, crossings):
    curve = Curve(np.array(sparsities), np.array(retentions), np.array([retentions] * 9), 4)
    ends = [None if end is None else sparsities[end] for end in (curve.last_winning, curve.first_losing)]
    assert (tuple(ends), curve.crossings) == (bracket, crossings)
    estimate = curve.critical_estimate
    assert (estimate is None) == (bracket[1] is None)
    assert estimate is None or (bracket[0] or 0) <= estimate <= bracket[1]


def test_an_end_is_told_apart_from_the_threshold_by_its_interval():
    curve = noisy([0.93, 0.8], spread=0.02)  # 0.93 is a deviation and a half from 0.9
    assert (curve.is_significant(0), curve.is_significant(1)) == (False, True)
    assert noisy([0.93, 0.8], sequences=1).is_significant(1) is None


def test_intervals_come_from_the_resampled_curves():
    curve = noisy([1.0, 0.8])
    assert curve.critical_estimate == pytest.approx(0.3)
    low, high = curve.estimate_interval
    # a curve that lies e higher crosses at 0.2 + 0.2 * (0.1 + e) / 0.2
    assert (low, high) == (pytest.approx(0.3 - 1.96 * 0.02, abs=2e-3), pytest.approx(0.3 + 1.96 * 0.02, abs=2e-3))
    bounds = curve.area_interval
    assert curve.area == pytest.approx(0.2 + 0.18)
    # the dense model is no estimate: its end of the first trapezoid does not move
    assert bounds.high - bounds.low == pytest.approx(2 * 1.96 * 0.02 * (0.1 + 0.2), rel=0.05)


def test_a_bound_that_was_not_reached_is_none():
    often = noisy([1.0, 0.9], spread=0.02)  # half of the resamples cross
    assert often.critical_estimate is None
    with np.errstate(all="raise"):  # there is nothing to interpolate between infinities
        low, high = often.estimate_interval
        assert 0.2 < low < 0.4
        assert high is None
        never = noisy([1.2, 1.2])
        assert (never.critical_estimate, never.estimate_interval) == (None, (None, None))
    assert noisy([1.0, 0.8], sequences=1).estimate_interval == (None, None)
