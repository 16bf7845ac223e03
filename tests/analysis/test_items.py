"""Paired statistics over documents, against formulas and a bootstrap that draws documents one by one."""

import numpy as np
import pytest
from scipy.stats import binom

from ltpipe.analysis.items import interval_over_tasks, mcnemar, mean_differences, paired_interval


def answers(seed, count=400, right=0.6):
    return (np.random.default_rng(seed).random(count) < right).astype(float).tolist()


def test_the_interval_is_that_of_drawing_documents():
    a, b = answers(0), answers(1, right=0.5)
    differences = np.array(a) - np.array(b)
    drawn = np.random.default_rng(2).integers(0, len(a), (20_000, len(a)))
    low, high = np.quantile(differences[drawn].mean(1), [0.025, 0.975])
    found = paired_interval(a, b)
    assert (found.low, found.high) == (pytest.approx(low, abs=0.004), pytest.approx(high, abs=0.004))
    error = differences.std() / np.sqrt(len(a))
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.03)


def test_values_that_are_not_right_or_wrong():
    draw = np.random.default_rng(3)
    a, b = draw.normal(size=200), draw.normal(size=200) + 0.3
    found, error = paired_interval(a, b), (a - b).std() / np.sqrt(200)
    assert found.low == pytest.approx((a - b).mean() - 1.96 * error, abs=0.02)
    assert mcnemar(a, b) is None


def test_a_wrong_pairing_is_refused_and_one_document_has_no_interval():
    with pytest.raises(ValueError, match="not paired"):
        paired_interval([1.0], [1.0, 0.0])
    assert np.isnan(paired_interval([1.0], [0.0]).low)


def test_the_mean_over_tasks_draws_within_each_task():
    """A task of 50 documents counts as much as one of 800, so its spread dominates."""
    pairs = [(answers(4, 50), answers(5, 50)), (answers(6, 800), answers(7, 800))]
    errors = [np.std(np.array(a) - np.array(b)) / np.sqrt(len(a)) for a, b in pairs]
    found = interval_over_tasks(pairs)
    assert found.high - found.low == pytest.approx(2 * 1.96 * np.hypot(*errors) / 2, rel=0.04)


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (5, 0), (3, 9), (10, 10), (1, 30)])
def test_mcnemar_is_the_exact_binomial_test(only_a, only_b):
    a = [1.0] * only_a + [0.0] * only_b + [1.0, 0.0] * 20
    b = [0.0] * only_a + [1.0] * only_b + [1.0, 0.0] * 20
    few, total = min(only_a, only_b), only_a + only_b
    expected = min(1.0, 2 * binom.cdf(few, total, 0.5)) if total else 1.0
    assert mcnemar(a, b) == mcnemar(b, a) == pytest.approx(expected)


def test_equal_bytes_whatever_else_is_computed():
    one = mean_differences(np.array(answers(8)) - np.array(answers(9)))
    paired_interval(answers(1), answers(2))
    assert (one == mean_differences(np.array(answers(8)) - np.array(answers(9)))).all()
