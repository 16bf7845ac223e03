"""Confidence intervals: the paired bootstrap over sequences (Efron & Tibshirani 1993, chapters 8 and 13).

Each of 10,000 resamples draws as many sequences as there are, with replacement. The draws depend only on the number of
sequences and the seed, so the dense model and every ticket see the same ones: the interval of a difference is paired,
and what makes a text hard for all of them cancels out.

Intervals are 95 % percentile intervals. With as few as 16 sequences they are approximate and tend to be too narrow.
Sequences of one document are not independent, which no resampling can account for.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ltpipe.evaluation.metrics import SequenceSums
from ltpipe.runtime.determinism import stable_seed
from ltpipe.runtime.errors import UserError

RESAMPLES = 10_000
CONFIDENCE = 0.95
_BLOCK = 1 << 22  # draws made at a time


@dataclass(frozen=True)
class Interval:
    """Bounds of an interval; both NaN if a single sequence gives no spread."""

    low: float
    high: float

    def excludes(self, value: float) -> bool:
        """Return whether `value` lies outside."""
        return value < self.low or value > self.high


@dataclass(frozen=True)
class Resampled:
    """A model's measures on every resample, weighted by tokens: float64 [resamples].

    Arrays of two models with the same number of sequences and the same seed are paired, element by element.

    Attributes:
        loss: nats/token.
        accuracy: fraction.
        agreement: agreement with the dense model, fraction; None if they were not compared.
        kl: KL divergence from the dense model, nats/token; None if they were not compared.
    """

    loss: np.ndarray
    accuracy: np.ndarray
    agreement: np.ndarray | None = None
    kl: np.ndarray | None = None


def draws(sequences: int, seed: int, resamples: int = RESAMPLES) -> Iterator[np.ndarray]:
    """Yield how often each sequence is drawn in each resample, in blocks of rows: float64 [rows, sequences].

    Every row sums to `sequences`. The rows do not depend on the size of the blocks.
    """
    generator = np.random.Generator(np.random.PCG64(stable_seed(seed, "bootstrap", str(sequences))))
    rows = max(1, _BLOCK // sequences)
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        yield generator.multinomial(sequences, np.full(sequences, 1 / sequences), size).astype(np.float64)


def resample(models: Sequence[SequenceSums], seed: int = 0, resamples: int = RESAMPLES) -> list[Resampled]:
    """Return the loss (sum of losses / sum of tokens) and other measures of several models on the same resamples.

    Raises:
        UserError: the models were not evaluated on the same numbers of tokens.
    """
    if not models:
        return []
    tokens = models[0].tokens
    if any(model.tokens != tokens for model in models):
        raise UserError("paired intervals need the same sequences; evaluate all tickets of a text on the same ones")
    wanted = [(model.loss_sum, model.correct, model.agree, model.kl_sum) for model in models]
    columns = [np.array(sums, np.float64) for sums in (tokens, *(sums for row in wanted for sums in row)) if sums]
    # Column by column and without BLAS: a ticket's interval must not depend on the other tickets or on threads.
    sums = np.concatenate(
        [
            np.stack([np.einsum("rs,s->r", counts, column) for column in columns])
            for counts in draws(len(tokens), seed, resamples)
        ],
        axis=1,
    )
    means = iter(sums[1:] / sums[0])
    return [
        Resampled(next(means), next(means), *(next(means) if column else None for column in row[2:])) for row in wanted
    ]


def interval(values: np.ndarray, sequences: int) -> Interval:
    """Return the percentile interval of a statistic's values on resamples of `sequences` sequences."""
    if sequences < 2:
        return Interval(float("nan"), float("nan"))
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(low), float(high))


def bounds(name: str, found: Interval) -> dict[str, float]:
    """Return the bounds of an interval by their column names."""
    return {f"{name}_low": found.low, f"{name}_high": found.high}


def loss_difference(a: Resampled, b: Resampled) -> np.ndarray:
    """Return the loss of `a` minus that of `b`, ticket minus dense or ticket minus ticket, on every resample."""
    return a.loss - b.loss


def accuracy_difference(a: Resampled, b: Resampled) -> np.ndarray:
    """Return the accuracy of `a` minus that of `b` on every resample."""
    return a.accuracy - b.accuracy


def retention(ticket: Resampled, dense: Resampled) -> np.ndarray:
    """Return performance retention on every resample; a loss of 0 is treated as in `performance_retention`."""
    zero = ticket.loss == 0
    ratio = dense.loss / np.where(zero, 1.0, ticket.loss)
    return np.where(zero, np.where(dense.loss == 0, 1.0, 0.0), ratio)
