"""Gradual pruning while a model trains (Zhu & Gupta 2017, 1710.01878)."""

from collections.abc import Mapping
from dataclasses import dataclass

from ltpipe.runtime.errors import UserError
from ltpipe.training.levels import keep_largest, magnitudes
from ltpipe.training.live import Callback, LiveTraining


def cubic_sparsity(final: float, progress: float) -> float:
    """s_f + (s_i - s_f)(1 - progress)^3 with s_i = 0, equation 1: fast at first, when most weights are idle.

    Args:
        final: s_f.
        progress: (t - t_0) / (n Δt), from 0 to 1; what lies outside is taken as the end.
    """
    left = 1 - min(max(progress, 0.0), 1.0)
    return final * (1 - left**3)


@dataclass(frozen=True)
class Gradual:
    """Prune each tensor by the magnitudes of the moment, from nothing down to `kept` weights, in steps.

    Attributes:
        kept: tensor names to the number of weights that are kept in the end.
        begin: iteration before which nothing is pruned.
        end: iteration after which nothing more is pruned.
        every: iterations between two steps.
    """

    kept: Mapping[str, int]
    begin: int
    end: int
    every: int

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.every < 1 or not 0 <= self.begin < self.end:
            raise UserError(
                f"gradual: begin {self.begin}, end {self.end}, every {self.every}; allowed is 0 <= begin < end, "
                "every from 1"
            )

    @property
    def identity(self) -> list[object]:
        """All that the result depends on."""
        return [dict(self.kept), self.begin, self.end, self.every]

    def callback(self) -> Callback:
        """Prune at each step; the counts at `end` are exactly `kept`."""

        def prune(live: LiveTraining) -> None:
            iteration = live.iteration
            due = iteration == self.end or (iteration - self.begin) % self.every == 0
            if not (self.begin <= iteration <= self.end and due):
                return
            progress = (iteration - self.begin) / (self.end - self.begin)
            weights = live.weights()
            counts = {}
            for name, kept in self.kept.items():
                size = weights[name].numel()
                counts[name] = size - round(cubic_sparsity(1 - kept / size, progress) * size)
            live.prune(keep_largest(magnitudes(weights), live.mask, counts))

        return prune
