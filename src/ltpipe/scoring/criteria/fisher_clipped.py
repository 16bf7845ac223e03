"""Diagonal Fisher information that no single sequence can dominate."""

from typing import TYPE_CHECKING

from ltpipe.scoring.criteria.fisher import Fisher

if TYPE_CHECKING:
    import torch

_LARGEST = 1.0


class FisherClipped(Fisher):
    """Like `fisher`, but with each weight tensor's gradient first scaled down to an L2 norm of at most 1.

    The norm is of the gradient of a sequence's mean loss, in nats/token per unit of weight.
    """

    def add(self, weight: "torch.Tensor", gradient: "torch.Tensor") -> None:
        """Add the square of the clipped gradient of the mean loss."""
        mean = gradient.float().div(self._tokens)
        mean.mul_((_LARGEST / mean.norm().clamp_(min=_LARGEST)).clamp_(max=1))
        super().add(weight, mean)


CRITERION = FisherClipped
