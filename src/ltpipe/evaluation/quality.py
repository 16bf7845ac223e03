"""Quality of a ticket against its dense model."""

import math
from collections.abc import Sequence

WINNING_RETENTION = 0.9
"""A ticket with at least this performance retention is called a winning ticket."""


def performance_retention(baseline_loss: float, pruned_loss: float) -> float:
    """Quality score of a ticket: baseline loss / pruned loss; 1.0 means nothing is lost.

    A pruned loss of exactly 0 gives 1.0 if the baseline is 0 too, and 0.0 otherwise (such a loss is no evidence of
    quality but of a degenerate evaluation).
    """
    if pruned_loss == 0:
        return 1.0 if baseline_loss == 0 else 0.0
    return baseline_loss / pruned_loss


def best_ticket(sparsities: Sequence[float], retentions: Sequence[float]) -> int:
    """Index of the sparsest winning ticket, or if none wins of the one that retains most; of equals the first."""

    def merit(index: int) -> tuple[bool, float]:
        wins = retentions[index] >= WINNING_RETENTION
        return wins, sparsities[index] if wins else retentions[index]

    return max(range(len(sparsities)), key=merit)


def perplexity(loss: float) -> float | None:
    """exp(loss) for a loss in nats per token; None where that exceeds float64."""
    try:
        return math.exp(loss)
    except OverflowError:
        return None
