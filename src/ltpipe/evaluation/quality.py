"""Quality of a ticket relative to its dense model."""

import math
from collections.abc import Sequence

WINNING_RETENTION = 0.9
"""A ticket with at least this performance retention is called a winning ticket."""


def performance_retention(baseline_loss: float, pruned_loss: float) -> float:
    """Return the quality of a ticket: baseline loss / pruned loss; 1.0 means nothing is lost.

    A pruned loss of exactly 0 gives 1.0 if the baseline is 0 too, and 0.0 otherwise (such a loss is evidence of a
    degenerate evaluation, not of quality).
    """
    if pruned_loss == 0:
        return 1.0 if baseline_loss == 0 else 0.0
    return baseline_loss / pruned_loss


def changed_nothing(kept: int, total: int, baseline_loss: float, pruned_loss: float) -> bool:
    """Return whether at least half of the weights are pruned and the loss is bit-identical.

    That is not a perfect ticket: the pruned weights were zeros already, or the model does not compute with them.
    """
    return 0 <= 2 * kept <= total and kept < total and pruned_loss == baseline_loss


def uniform_loss(vocabulary: int) -> float:
    """Return the loss of a uniform guess among `vocabulary` tokens, nats/token: ln(vocabulary)."""
    return math.log(vocabulary)


def beats_chance(loss: float, loss_high: float, uniform: float) -> bool:
    """Return whether a dense model is significantly better than a uniform guess.

    Args:
        loss: the model's loss, nats/token.
        loss_high: upper bound of its interval; if it is NaN (no interval), the loss itself decides.
        uniform: loss of a uniform guess, nats/token.
    """
    return (loss if math.isnan(loss_high) else loss_high) < uniform


def best_ticket(sparsities: Sequence[float], retentions: Sequence[float]) -> int:
    """Return the index of the sparsest winning ticket or, if none wins, of the best retention; the first among ties."""

    def merit(index: int) -> tuple[bool, float]:
        wins = retentions[index] >= WINNING_RETENTION
        return wins, sparsities[index] if wins else retentions[index]

    return max(range(len(sparsities)), key=merit)


def perplexity(loss: float) -> float | None:
    """Return exp(loss) for a loss in nats per token; None if that exceeds float64."""
    try:
        return math.exp(loss)
    except OverflowError:
        return None
