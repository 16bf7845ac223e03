"""Connection sensitivity."""

from typing import TYPE_CHECKING

from ltpipe.scoring.criterion import GradientCriterion

if TYPE_CHECKING:
    import torch


class Snip(GradientCriterion):
    """|Σ w·g|: the loss's sensitivity to a gate c on the weight, |∂L(c⊙w)/∂c| at c = 1.

    Lee et al. 2019 (1810.02340), of the loss summed over all calibration tokens, in nats. The paper divides by the sum
    over all weights, which changes no rank and is left out.
    """

    def add(self, weight: "torch.Tensor", gradient: "torch.Tensor") -> None:
        """Add w·g, multiplied in float32."""
        self._sum.addcmul_(weight, gradient)


CRITERION = Snip
