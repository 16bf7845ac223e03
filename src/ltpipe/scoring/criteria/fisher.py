"""Diagonal Fisher information, from gradients of single sequences."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from ltpipe.scoring.criterion import GradientCriterion

if TYPE_CHECKING:
    import torch


class Fisher(GradientCriterion):
    """Mean over sequences of g², the diagonal of the empirical Fisher information.

    As in Theis et al. 2018 (1801.05787) and Kirkpatrick et al. 2017 (1612.00796), for the loss summed over a sequence,
    in nats² per squared unit of weight. Squares are computed and summed in float32, because those of bfloat16 gradients
    underflow, and nothing is clamped from below.
    """

    batch: ClassVar[int | None] = 1

    def __init__(self, shape: Sequence[int], device: "torch.device", tokens: float) -> None:
        super().__init__(shape, device, tokens)
        self._batches = 0

    def add(self, weight: "torch.Tensor", gradient: "torch.Tensor") -> None:  # noqa: ARG002
        """Add g², multiplied in float32."""
        self._sum.addcmul_(gradient, gradient)
        self._batches += 1

    def result(self) -> "torch.Tensor":
        """Return the mean of the squares."""
        return self._sum.div_(self._batches)


CRITERION = Fisher
