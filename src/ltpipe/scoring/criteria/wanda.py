"""Pruning by weights and activations."""

from typing import TYPE_CHECKING

from ltpipe.scoring.criterion import ActivationCriterion

if TYPE_CHECKING:
    import torch


class Wanda(ActivationCriterion):
    """|W_ij|·‖X_j‖₂, with the norm over all calibration tokens (Sun et al. 2024, 2306.11695, eq. 1).

    The paper compares weights inside each output row: scope `row`. Its code prunes block by block and recomputes the
    inputs of the next block; here the inputs are the dense model's, so one score file serves every sparsity.
    """

    @staticmethod
    def combine(weight: "torch.Tensor", norms: "torch.Tensor") -> "torch.Tensor":
        """Multiply magnitudes and norms."""
        return weight.abs().mul_(norms)


CRITERION = Wanda
