"""Gradual pruning while a model trains (Zhu & Gupta 2017, 1710.01878)."""

from collections.abc import Mapping
from dataclasses import dataclass

from ltpipe.runtime.errors import UserError
from ltpipe.training.levels import keep_largest, magnitudes
from ltpipe.training.live import Callback, LiveTraining


def cubic_sparsity(final: float, progress: float) -> float:
    """Return s_f + (s_i - s_f)(1 - progress)^3 with s_i = 0, equation 1: fast while many weights are redundant.

    Args:
        final: s_f.
        progress: (t - t_0) / (n Δt), from 0 to 1.
    """
    return final * (1 - (1 - progress) ** 3)


@dataclass(frozen=True)
class Schedule:
    """When to prune.

    Attributes:
        begin: iteration before which nothing is pruned.
        end: the last iteration that prunes.
        every: iterations between two pruning steps.
    """

    begin: int = 0
    end: int = 500
    every: int = 100

    def __post_init__(self) -> None:
        """Reject values out of range."""
        if self.every < 1 or not 0 <= self.begin < self.end:
            raise UserError(
                f"gradual: begin {self.begin}, end {self.end}, every {self.every} is not allowed; use "
                "0 <= begin < end and every 1 or more"
            )

    def progress(self, iteration: int) -> float | None:
        """Return (t - t_0) / (n Δt), from 0 to 1, or None if this iteration does not prune."""
        due = iteration == self.end or (iteration - self.begin) % self.every == 0
        inside = self.begin <= iteration <= self.end
        return (iteration - self.begin) / (self.end - self.begin) if inside and due else None


@dataclass(frozen=True)
class Gradual:
    """Prune each tensor by its current magnitudes, in steps from dense down to `kept` weights.

    Attributes:
        kept: tensor names to the number of weights kept in the end.
        schedule: when to prune.
    """

    kept: Mapping[str, int]
    schedule: Schedule

    def callback(self) -> Callback:
        """Return the callback that prunes at each step; the final counts are exactly `kept`."""

        def prune(live: LiveTraining) -> None:
            progress = self.schedule.progress(live.iteration)
            if progress is None:
                return
            weights = live.weights()
            counts = {}
            for name, kept in self.kept.items():
                size = weights[name].numel()
                counts[name] = size - round(cubic_sparsity(1 - kept / size, progress) * size)
            live.prune(keep_largest(magnitudes(weights), live.mask, counts))

        return prune
