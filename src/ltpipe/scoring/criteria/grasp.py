"""Gradient signal preservation."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ltpipe.runtime.errors import UserError
from ltpipe.scoring.criterion import Criterion
from ltpipe.scoring.curvature import SummedGradient

if TYPE_CHECKING:
    import torch

    from ltpipe.scoring.subject import Deliver, Objective, Subject


@dataclass(frozen=True)
class Options:
    """Options of GraSP.

    Attributes:
        temperature: T, the divisor of the logits; 1 leaves them unchanged.
        mode: eval, or train: with batch normalisation as in training.
    """

    temperature: float = 200.0
    mode: Literal["eval", "train"] = "eval"

    def __post_init__(self) -> None:
        """Reject a temperature that is not above 0."""
        if self.temperature <= 0:
            raise UserError(f"temperature: {self.temperature:g} is not allowed; use a number above 0")


class Grasp(Criterion):
    """θ⊙Hg: half of the first-order decrease of the gradient's squared norm ‖g‖² when a weight is pruned.

    Wang et al. 2020 (2002.07376): the paper's S(−θ) with the opposite sign, so that weights worth keeping have larger
    scores. Scores are signed. g and H are those of the cross-entropy of logits / T, summed over all calibration tokens,
    with respect to the scored weights. The paper does not mention T; its code divides by 200, which ranks differently
    from 1: the softmax is then nearly uniform, and the curvature is that of the logits.
    """

    signed = True
    precision = "float32"
    options = Options

    @classmethod
    def walk(cls, subject: "Subject") -> None:
        """Make one of the walks, with the scored weights copied as if they were moved."""
        with subject.changed(lambda name, weight: weight.clone() if name in subject.names else weight):
            subject.gradients(SummedGradient, lambda *_: None)

    @classmethod
    def score(cls, subject: "Subject", deliver: "Deliver") -> None:
        """Multiply the subject's Hg by the weights; a streamed subject takes three backward walks."""

        def finish(name: str, product: "torch.Tensor") -> None:
            deliver(name, product.mul_(subject.weight(name)))

        with subject.normalising(subject.options.mode):
            subject.hessian_gradient(finish, _tempered(subject.options.temperature))


def _tempered(temperature: float) -> "Objective":
    from torch.nn.functional import cross_entropy

    return lambda logits, labels: cross_entropy(logits / temperature, labels, reduction="none")


CRITERION = Grasp
