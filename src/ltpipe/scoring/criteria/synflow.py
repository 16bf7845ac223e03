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
        iterations: n, steps that it prunes in.
        density: d, fraction of the weights that the last step leaves.
    """

    iterations: int = 100
    density: float = 0.01

    def __post_init__(self) -> None:
        """Refuse a schedule without steps or end."""
        if self.iterations < 1:
            raise UserError(f"iterations: {self.iterations} is not allowed; use 1 or more")
        if not 0 < self.density < 1:
            raise UserError(f"density: {self.density:g} is not allowed; use a number above 0 and below 1")


class Synflow(Criterion):
    """The iteration that a weight falls in, of an exponential schedule, and its synaptic flow there.

    Synaptic flow is |∂R/∂|θ| ⊙ |θ|| with R the sum of all outputs of the network of absolute weights on an input of
    ones (Tanaka et al. 2020, 2006.05467, eq. 3): no data, one token's embedding replaced by ones. Iteration k of n
    leaves the global density d^(k/n), with the flow recomputed among the weights that are left (algorithm 1).
    A weight that falls in iteration k scores k - 1 plus its flow relative to the threshold of that iteration, from 0
    to 1; those left at the end score n plus. So one score file serves every sparsity, and at those of the schedule,
    under scope `global`, its masks are the paper's. The paper's code has a schedule for each density, which ends there:
    its masks are those of the `density` that they are asked for, at a sparsity of 1 less that.

    Softmax and norms stay as they are, while the paper's networks are linear but for ReLU. Where all tokens see the
    same values, attention does not matter, and the weights of queries and keys have no flow: exclude them from the
    prunable ones, or they go first.
    """

    needs_data = False
    precision = "float32"
    options = Options

    @classmethod
    def passes(cls, options: Options) -> int:
        """One an iteration."""
        return options.iterations

    @classmethod
    def walk(cls, subject: "Subject") -> None:
        """One iteration's walk."""
        with subject.changed(lambda _, weight: weight.abs()), subject.inputs_of_ones():
            subject.gradients(Sensitivity, lambda *_: None, _summed)

    @classmethod
    def score(cls, subject: "Subject", deliver: "Deliver") -> None:
        """As many walks as there are iterations; the state of every weight lies on disk between them."""
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
