"""The bootstrap against resampling by hand, and its intervals against the truth they are to cover."""

from dataclasses import replace

import numpy as np
import pytest

from ltpipe.analysis.confidence import (
    RESAMPLES,
    accuracy_difference,
    draws,
    interval,
    loss_difference,
    resample,
    retention,
)
from ltpipe.evaluation.metrics import SequenceSums
from ltpipe.evaluation.quality import performance_retention
from ltpipe.runtime.errors import UserError


def totals(losses, tokens=None, correct=None):
    tokens = tokens or [10] * len(losses)
    return SequenceSums(list(losses), correct or [1] * len(losses), tokens)


@pytest.fixture
def text():
    generator = np.random.default_rng(2)
    tokens = [int(count) for count in generator.integers(5, 300, 16)]
    hardness = generator.normal(3, 1, 16)
    return [
        totals(
            list(np.abs(hardness + shift + generator.normal(0, 0.1, 16)) * tokens),
            tokens,
            [int(count) for count in generator.integers(0, 5, 16)],
        )
        for shift in (0, 0.2, 0.5)
    ]


def test_every_statistic_equals_resampling_by_hand(text):
    counts = np.concatenate(list(draws(16, 0)))
    assert counts.shape == (RESAMPLES, 16)
    assert (counts.sum(axis=1) == 16).all()
    dense, ticket, other = resample(text)
    for row in (0, 1, 17, RESAMPLES - 1):
        drawn = np.repeat(np.arange(16), counts[row].astype(int))

        def loss(totals, drawn=drawn):
            return sum(totals.loss_sum[i] for i in drawn) / sum(totals.tokens[i] for i in drawn)

        def accuracy(totals, drawn=drawn):
            return sum(totals.correct[i] for i in drawn) / sum(totals.tokens[i] for i in drawn)

        assert loss_difference(ticket, dense)[row] == pytest.approx(loss(text[1]) - loss(text[0]), rel=1e-9)
        assert loss_difference(other, ticket)[row] == pytest.approx(loss(text[2]) - loss(text[1]), rel=1e-9)
        assert retention(ticket, dense)[row] == pytest.approx(loss(text[0]) / loss(text[1]), rel=1e-12)
        assert accuracy_difference(ticket, dense)[row] == pytest.approx(
            accuracy(text[1]) - accuracy(text[0]), abs=1e-12
        )


def test_agreement_and_divergence_are_resampled_where_they_were_measured(text):
    plain, *_ = text
    count = len(plain.tokens)
    compared = replace(plain, agree=list(range(count)), kl_sum=[0.5 * n for n in range(count)])
    alone, both = resample([plain, compared], resamples=50)
    assert alone.agreement is None
    assert alone.kl is None
    np.testing.assert_array_equal(both.loss, alone.loss)
    (drawn,) = draws(count, 0, 50)
    tokens = drawn @ np.array(plain.tokens)
    np.testing.assert_allclose(both.agreement, drawn @ np.arange(count) / tokens, rtol=1e-12)
    np.testing.assert_allclose(both.kl, both.agreement / 2, rtol=1e-12)


def test_draws_are_uniform_depend_on_number_and_seed_alone_and_not_on_blocks(monkeypatch):
    whole = np.concatenate(list(draws(16, 0, 500)))
    monkeypatch.setattr("ltpipe.analysis.confidence._BLOCK", 16 * 7)
    blocks = list(draws(16, 0, 500))
    assert len(blocks) == 72
    np.testing.assert_array_equal(np.concatenate(blocks), whole)
    assert not np.array_equal(np.concatenate(list(draws(16, 1, 500))), whole)
    np.testing.assert_allclose(whole.mean(axis=0), 1, atol=5 / np.sqrt(500))


def test_an_interval_does_not_depend_on_the_other_tickets(text):
    together, alone = resample(text), resample(text[:2])
    for a, b in zip(alone, together[:2], strict=True):
        assert a.loss.tobytes() == b.loss.tobytes()
        assert a.accuracy.tobytes() == b.accuracy.tobytes()


def test_the_interval_is_the_middle_95_percent():
    found = interval(np.arange(10_001) / 10_000, 16)
    assert (found.low, found.high) == (pytest.approx(0.025), pytest.approx(0.975))
    assert (found.excludes(0.02), found.excludes(0.5), found.excludes(0.98)) == (True, False, True)
    assert np.isnan(interval(np.zeros(100), 1).low)
    assert not interval(np.zeros(100), 1).excludes(7.0)


def test_pairing_makes_the_interval_of_a_difference_narrow(text):
    dense, ticket, _ = resample(text)
    paired = interval(loss_difference(ticket, dense), 16)
    shuffled = interval(ticket.loss - dense.loss[::-1], 16)
    assert paired.high - paired.low < (shuffled.high - shuffled.low) / 4
    assert paired.excludes(0.0)
    assert not shuffled.excludes(0.0)
    assert interval(loss_difference(dense, dense), 16).high == 0.0


@pytest.mark.parametrize(("sequences", "low", "high"), [(16, 0.88, 0.96), (100, 0.92, 0.97)])
def test_intervals_cover_the_truth(sequences, low, high):
    """Normal differences of known mean: the share of intervals that hold it is near 95 %, and less with few."""
    generator = np.random.default_rng(sequences)
    counts = np.concatenate(list(draws(sequences, 0, 1000))) / sequences
    repeats = 1500
    differences = counts @ generator.normal(0.3, 1.0, (sequences, repeats))
    found = [interval(column, sequences) for column in differences.T]
    covered = np.mean([not interval.excludes(0.3) for interval in found])
    assert low < covered < high


def test_the_width_is_that_of_the_standard_error():
    generator = np.random.default_rng(0)
    losses = generator.normal(30, 5, 400)
    (found,) = resample([totals(losses)])
    bounds = interval(found.loss, 400)
    expected = 2 * 1.96 * losses.std() / 10 / np.sqrt(400)
    assert bounds.high - bounds.low == pytest.approx(expected, rel=0.05)


def test_retention_of_a_loss_of_zero_follows_the_convention():
    nothing, something = resample([totals([0.0] * 4), totals([1.0] * 4)])
    for ticket, dense in ((nothing, something), (nothing, nothing), (something, nothing)):
        expected = performance_retention(float(dense.loss[0]), float(ticket.loss[0]))
        assert set(retention(ticket, dense)) == {expected}


def test_other_sequences_are_refused():
    with pytest.raises(UserError, match="need the same sequences"):
        resample([totals([1.0, 2.0]), totals([1.0, 2.0], tokens=[10, 11])])
    assert resample([]) == []
