"""Sensitivity of the loss to a weight, whatever its value."""

from typing import TYPE_CHECKING

from ltpipe.scoring.criterion import GradientCriterion

if TYPE_CHECKING:
    import torch


class GradientNorm(GradientCriterion):
    """|Σ g|, the gradient magnitude of the loss summed over all calibration tokens, in nats per unit of weight."""

    def add(self, weight: "torch.Tensor", gradient: "torch.Tensor") -> None:  # noqa: ARG002
        """Add g."""
        self._sum.add_(gradient)


CRITERION = GradientNorm
