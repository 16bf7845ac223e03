"""Gradient signal preservation."""

from typing import TYPE_CHECKING

from ltpipe.scoring.criterion import Criterion
from ltpipe.scoring.curvature import SummedGradient

if TYPE_CHECKING:
    import torch

    from ltpipe.scoring.subject import Deliver, Subject


class Grasp(Criterion):
    """θ⊙Hg: half of what the gradient's norm ‖g‖² loses, to first order, when a weight goes.

    Wang et al. 2020 (2002.07376): the paper's S(−θ) with the sign turned, so that what is worth keeping has the larger
    score. Scores have a sign. g and H are those of the loss summed over all calibration tokens, with respect to the
    scored weights. The paper's code divides logits by a temperature of 200, which it does not derive; that is left out.
    """

    signed = True
    precision = "float32"

    @classmethod
    def walk(cls, subject: "Subject") -> None:
        """One of the walks, at scored weights that are copied as if they were moved."""
        with subject.changed(lambda name, weight: weight.clone() if name in subject.names else weight):
            subject.gradients(SummedGradient, lambda *_: None)

    @classmethod
    def score(cls, subject: "Subject", deliver: "Deliver") -> None:
        """Multiply what the subject finds of the curvature; a streamed one takes three backward walks."""

        def finish(name: str, product: "torch.Tensor") -> None:
            deliver(name, product.mul_(subject.weight(name)))

        subject.hessian_gradient(finish)


CRITERION = Grasp
