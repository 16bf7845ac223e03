"""Iterative synaptic flow pruning."""

from typing import TYPE_CHECKING

from ltpipe.scoring.criteria.snip import Snip
from ltpipe.scoring.criterion import Criterion

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from ltpipe.scoring.subject import Deliver, Subject


class Synflow(Criterion):
    """The iteration that a weight falls in, of an exponential schedule, and its synaptic flow there.

    Synaptic flow is |∂R/∂|θ| ⊙ |θ|| with R the sum of all outputs of the network of absolute weights on an input of
    ones (Tanaka et al. 2020, 2006.05467, eq. 3): no data, one token's embedding replaced by ones. Iteration k of n
    leaves the global density 0.01^(k/n), with the flow recomputed among the weights that are left (algorithm 1).
    A weight that falls in iteration k scores k - 1 plus its flow relative to the threshold of that iteration, from 0
    to 1; those left at the end score n plus. So one score file serves every sparsity, and at those of the schedule,
    under scope `global`, its masks are the paper's.

    Softmax and norms stay as they are, while the paper's networks are linear but for ReLU. Where all tokens see the
    same values, attention does not matter, and the weights of queries and keys have no flow: exclude them from the
    prunable ones, or they go first.
    """

    needs_data = False
    precision = "float32"
    iterative = True

    @classmethod
    def walk(cls, subject: "Subject") -> None:
        """One iteration's walk."""
        with subject.changed(lambda _, weight: weight.abs()), subject.inputs_of_ones():
            subject.gradients(Snip, lambda *_: None, _summed)

    @classmethod
    def score(cls, subject: "Subject", deliver: "Deliver") -> None:
        """As many walks as there are iterations; the state of every weight lies on disk between them."""
        from ltpipe.scoring.flow import prune_iteratively

        def flow(left: "Callable[[str], torch.Tensor]", write: "Deliver") -> None:
            def change(name: str, weight: "torch.Tensor") -> "torch.Tensor":
                weight = weight.abs()
                return weight.mul_(left(name).to(weight.device)) if name in subject.names else weight

            with subject.changed(change), subject.inputs_of_ones():
                subject.gradients(Snip, write, _summed)

        prune_iteratively(subject, flow, deliver)


def _summed(logits: "torch.Tensor", _: "torch.Tensor") -> "torch.Tensor":
    return logits.sum(-1)


CRITERION = Synflow
