"""Connection sensitivity."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ltpipe.scoring.criterion import GradientCriterion

if TYPE_CHECKING:
    import torch

    from ltpipe.scoring.subject import Deliver, Subject


@dataclass(frozen=True)
class Options:
    """Options of SNIP.

    Attributes:
        mode: eval, or train: with batch normalisation as in training, as in the paper's code.
    """

    mode: Literal["eval", "train"] = "eval"


class Sensitivity(GradientCriterion):
    """|Σ w·g|, over all calibration tokens."""

    def add(self, weight: "torch.Tensor", gradient: "torch.Tensor") -> None:
        """Add w·g, multiplied in float32."""
        self._sum.addcmul_(weight, gradient)


class Snip(Sensitivity):
    """|Σ w·g|: the loss's sensitivity to a gate c on the weight, |∂L(c⊙w)/∂c| at c = 1.

    Lee et al. 2019 (1810.02340), for the loss summed over all calibration tokens, in nats. The paper also divides by
    the sum over all weights, which is left out because it does not change the ranking.
    """

    options = Options

    @classmethod
    def score(cls, subject: "Subject", deliver: "Deliver") -> None:
        """Score as `GradientCriterion` does, in the mode given by the options."""
        with subject.normalising(subject.options.mode):
            super().score(subject, deliver)


CRITERION = Snip
