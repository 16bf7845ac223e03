"""First-order change of the loss when a weight is set to zero."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ltpipe.scoring.criterion import GradientCriterion

if TYPE_CHECKING:
    import torch


class Taylor(GradientCriterion):
    """Mean over sequences of |w·g|, in nats (Molchanov et al. 2017, 1611.06440; per weight: 2019, 1906.10771).

    The magnitude is taken for each sequence, so changes of opposite sign in different sequences do not cancel as they
    do in SNIP. The later paper squares instead.
    """

    batch = 1

    def __init__(self, shape: Sequence[int], device: "torch.device", tokens: float) -> None:
        super().__init__(shape, device, tokens)
        self._sequences = 0

    def add(self, weight: "torch.Tensor", gradient: "torch.Tensor") -> None:
        """Add |w·g| of a sequence, multiplied in float32."""
        self._sum.add_(weight.float().mul(gradient).abs_())
        self._sequences += 1

    def result(self) -> "torch.Tensor":
        """Return scores for the loss summed over a sequence."""
        return self._sum.div_(self._sequences)


CRITERION = Taylor
