import math

import pytest

from ltpipe.evaluation.quality import performance_retention, perplexity


@pytest.mark.parametrize(
    ("baseline", "pruned", "score"),
    [(2.5, 3.0, 0.8333), (2.5, 2.5, 1.0), (3.0, 2.5, 1.2), (2.5, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, 2.5, 0.0)],
)
def test_quality_score_edge_cases(baseline: float, pruned: float, score: float):
    assert performance_retention(baseline, pruned) == pytest.approx(score, abs=5e-5)


def test_perplexity_is_the_exponential_of_the_loss():
    assert perplexity(2.0) == math.exp(2.0)


def test_perplexity_beyond_float64_is_none():
    assert perplexity(800.0) is None
