"""Iterative synaptic flow pruning."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ltpipe.runtime.errors import UserError
from ltpipe.scoring.criteria.snip import Sensitivity
from ltpipe.scoring.criterion import Criterion

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from ltpipe.scoring.subject import Deliver, Subject


@dataclass(frozen=True)
class Options:
    """Options of SynFlow.

    Attributes:
        iterations: n, the number of pruning steps.
        density: d, the fraction of the weights left after the last step.
    """

    iterations: int = 100
    density: float = 0.01

    def __post_init__(self) -> None:
        """Reject a schedule without steps or with an impossible density."""
        if self.iterations < 1:
            raise UserError(f"iterations: {self.iterations} is not allowed; use 1 or more")
        if not 0 < self.density < 1:
            raise UserError(f"density: {self.density:g} is not allowed; use a number above 0 and below 1")


class Synflow(Criterion):
    """The iteration of an exponential schedule in which a weight is pruned, and its synaptic flow there.

    Synaptic flow is |∂R/∂|θ| ⊙ |θ||, where R is the sum of all outputs of the network with absolute weights on an input
    of ones (Tanaka et al. 2020, 2006.05467, eq. 3): no data, one token's embedding replaced by ones. Iteration k of n
    leaves the global density d^(k/n), with the flow recomputed among the weights that are left (algorithm 1).
    A weight pruned in iteration k scores k - 1 plus its flow relative to that iteration's threshold, from 0 to 1; one
    left at the end scores n plus its relative flow. So one score file serves every sparsity, and at the sparsities of
    the schedule, under scope `global`, its masks are the paper's. The paper's code has a schedule for each density,
    ending there: set `density` to get its masks, at a sparsity of 1 - `density`.

    Softmax and norms stay unchanged, while the paper's networks are linear except for ReLU. If all tokens see the same
    values, attention does not matter, and the weights of queries and keys have no flow: exclude them from the prunable
    weights, or they are pruned first.
    """

    needs_data = False
    precision = "float32"
    options = Options

    @classmethod
    def passes(cls, options: Options) -> int:
        """Return one pass per iteration."""
        return options.iterations

    @classmethod
    def walk(cls, subject: "Subject") -> None:
        """Make one iteration's walk."""
        with subject.changed(lambda _, weight: weight.abs()), subject.inputs_of_ones():
            subject.gradients(Sensitivity, lambda *_: None, _summed)

    @classmethod
    def score(cls, subject: "Subject", deliver: "Deliver") -> None:
        """Make one walk per iteration; the state of every weight is on disk between them."""
        from ltpipe.scoring.flow import prune_iteratively

        def flow(left: "Callable[[str], torch.Tensor]", write: "Deliver") -> None:
            def change(name: str, weight: "torch.Tensor") -> "torch.Tensor":
                weight = weight.abs()
                return weight.mul_(left(name).to(weight.device)) if name in subject.names else weight

            with subject.changed(change), subject.inputs_of_ones():
                subject.gradients(Sensitivity, write, _summed)

        prune_iteratively(subject, flow, deliver, subject.options.iterations, subject.options.density)


def _summed(logits: "torch.Tensor", _: "torch.Tensor") -> "torch.Tensor":
    return logits.sum(-1)


CRITERION = Synflow
