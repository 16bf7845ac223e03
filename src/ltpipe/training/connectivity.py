"""Linear mode connectivity (Frankle et al. 2020, 1912.05671, section 2): the error between two trainings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ltpipe.runtime.errors import UserError
from ltpipe.runtime.progress import track
from ltpipe.runtime.records import Record
from ltpipe.training.record import Branch

if TYPE_CHECKING:  # a report only reads lines and need not wait for torch
    import torch

STABLE = 0.02
"""Below this barrier two trainings count as linearly connected, following the paper."""


def interpolate(
    first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor], alpha: float
) -> dict[str, torch.Tensor]:
    """Return alpha * first + (1 - alpha) * second, which at either end is exactly `first` or `second`.

    Integer tensors are taken from `first`.

    Raises:
        UserError: the tensors differ in names or shapes.
    """
    if first.keys() != second.keys() or any(first[name].shape != second[name].shape for name in first):
        raise UserError("the two sets of weights belong to different models; compare two trainings of one model")
    return {
        name: alpha * tensor + (1 - alpha) * second[name] if tensor.is_floating_point() else tensor.clone()
        for name, tensor in first.items()
    }


def errors_along_line(
    first: Mapping[str, torch.Tensor],
    second: Mapping[str, torch.Tensor],
    error: Callable[[dict[str, torch.Tensor]], float],
    points: int = 30,
) -> list[float]:
    """Return the errors of a W1 + (1 - a) W2 at `points` evenly spaced values of a, from 0 to 1.

    Args:
        first: W1, names to tensors; may include running statistics, which are interpolated too.
        second: W2, with the same names and shapes.
        error: returns the error of a set of weights, a fraction of the images.
        points: 2 or more.

    Raises:
        UserError: there are fewer than two points, or the weights belong to different models.
    """
    if points < 2:
        raise UserError(f"points: {points} is not allowed; use 2 or more")
    return [error(interpolate(first, second, alpha)) for alpha in track(_evenly(points), "evaluating", "point")]


@dataclass(frozen=True)
class Connectivity(Record):
    """The line between two branches of a training.

    Attributes:
        training, replicate, level: the training, replicate and level of both branches.
        branches: W1 and W2, for example `ticket` and `order-1`: trained from one W_k with different data orders.
        alphas: values of a in a W1 + (1 - a) W2, from 0 to 1.
        errors: the error at each alpha, a fraction of the test labels.
        barrier: max_a E(a W1 + (1 - a) W2) - (E(W1) + E(W2)) / 2, a fraction; never negative, since the line includes
            both ends.
        stable: whether the barrier is below 2 percentage points.
    """

    KIND: ClassVar[str] = "linear connectivity"

    training: str
    replicate: int
    level: int
    branches: tuple[str, str]
    alphas: tuple[float, ...]
    errors: tuple[float, ...]
    barrier: float
    stable: bool

    def __post_init__(self) -> None:
        """Raise ValueError if the fields do not describe one line."""
        for name in self.branches:
            Branch.named(name)
        if len(self.alphas) != len(self.errors) or len(self.alphas) < 2:
            raise ValueError("alphas and errors differ in length or have fewer than two values")
        barrier = _barrier(self.errors)
        if (self.barrier, self.stable) != (barrier, barrier < STABLE):
            raise ValueError(f"barrier: {self.barrier} does not match the errors")

    @classmethod
    def of(
        cls, training: str, replicate: int, level: int, branches: tuple[str, str], errors: Sequence[float]
    ) -> Connectivity:
        """Record the line between two branches, from what `errors_along_line` returns."""
        barrier = _barrier(errors)
        alphas = _evenly(len(errors))
        return cls(training, replicate, level, branches, alphas, tuple(errors), barrier, barrier < STABLE)


def _evenly(points: int) -> tuple[float, ...]:
    return tuple(index / (points - 1) for index in range(points))


def _barrier(errors: Sequence[float]) -> float:
    return max(errors) - (errors[0] + errors[-1]) / 2
