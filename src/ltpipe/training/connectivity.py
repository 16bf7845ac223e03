"""Linear mode connectivity (Frankle et al. 2020, 1912.05671, section 2): the error between two trainings."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ltpipe.runtime.errors import UserError
from ltpipe.training.levels import Tensors

STABLE = 0.02
"""Two trainings whose barrier is below this are in one linearly connected valley, as the paper has it."""


@dataclass(frozen=True)
class Line:
    """Errors of a W1 + (1 - a) W2.

    Attributes:
        alphas: a, from 0 to 1.
        errors: at each of them, as fractions.
    """

    alphas: tuple[float, ...]
    errors: tuple[float, ...]

    @property
    def barrier(self) -> float:
        """max_a E(a W1 + (1 - a) W2) - (E(W1) + E(W2)) / 2; never negative, since the line has both ends."""
        return max(self.errors) - (self.errors[0] + self.errors[-1]) / 2

    @property
    def stable(self) -> bool:
        """Whether the barrier is below 2 points."""
        return self.barrier < STABLE


def interpolate(first: Tensors, second: Tensors, alpha: float) -> dict[str, torch.Tensor]:
    """The point alpha * first + (1 - alpha) * second, exactly one of them at the ends.

    Whole numbers are those of `first`.

    Raises:
        UserError: they differ in names or shapes.
    """
    if first.keys() != second.keys() or any(first[name].shape != second[name].shape for name in first):
        raise UserError("the two sets of weights are of different models; compare two trainings of one model")
    return {
        name: alpha * tensor + (1 - alpha) * second[name] if tensor.is_floating_point() else tensor.clone()
        for name, tensor in first.items()
    }


def error_along_line(
    first: Tensors, second: Tensors, error: Callable[[dict[str, torch.Tensor]], float], points: int = 30
) -> Line:
    """Evaluate at `points` evenly spaced places, both ends among them.

    Args:
        first: W1, names to tensors; running statistics may be among them, and are interpolated too.
        second: W2, of the same names and shapes.
        error: of a set of weights, as a fraction of the images.
        points: 2 or more.

    Raises:
        UserError: fewer than two points, or weights of different models.
    """
    if points < 2:
        raise UserError(f"{points} points on the line; allowed are 2 and more")
    alphas = tuple(index / (points - 1) for index in range(points))
    return Line(alphas, tuple(error(interpolate(first, second, alpha)) for alpha in alphas))
