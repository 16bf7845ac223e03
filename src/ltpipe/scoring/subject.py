"""A model that is being scored, and the ways in which a criterion may look at it."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch

from ltpipe.scoring.stored import Stored

Deliver = Callable[[str, torch.Tensor], None]
"""Takes the name of a weight tensor and its scores, float32 on the CPU."""

Change = Callable[[str, torch.Tensor], torch.Tensor]
"""What to compute with in place of a stored tensor, by its name; the stored one is not to be written to."""

Objective = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""What to derive in place of the loss: float32 logits [rows, classes] and int64 labels [rows] to float32 [rows]."""


class Accumulator(Protocol):
    """Sums up what the gradients of one weight tensor say about its weights; see `GradientCriterion`."""

    def add(self, weight: torch.Tensor, gradient: torch.Tensor) -> None:
        """Take a gradient."""
        ...

    def result(self) -> torch.Tensor:
        """Scores, float32."""
        ...


AccumulatorType = Callable[[Sequence[int], torch.device, float], Accumulator]


class Subject(Protocol):
    """What a criterion sees of a model, whether that is a checkpoint that is streamed or one that is being trained.

    Attributes:
        names: weights to score, in canonical order.
        options: of the criterion, of its type.
    """

    names: tuple[str, ...]
    options: Any

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a weight."""
        ...

    def weight(self, name: str) -> torch.Tensor:
        """A weight as it is stored, whatever the model computes with: float32 on the CPU, not to be written to."""
        ...

    def gradients(self, make: AccumulatorType, deliver: Deliver, objective: Objective = ...) -> None:
        """Accumulate the gradients of every weight over all calibration examples, and deliver the results.

        Gradients are those of the loss *summed* over a micro-batch, or of another objective.
        """
        ...

    def hessian_gradient(self, deliver: Deliver, objective: Objective = ...) -> None:
        """Deliver Hg: the Hessian of the loss, summed over all calibration examples, times its gradient.

        Both with respect to the scored weights, and of the loss or of another objective. What is delivered may be
        written to.
        """
        ...

    def input_norms(self) -> dict[str, torch.Tensor]:
        """L2 norm of each input of every weight over all examples, float32 on the CPU, with as many elements.

        Of the weight's shape, or [matrices, rows, columns] where one dimension of it holds several matrices.

        Raises:
            UserError: a weight is not that of a linear layer.
        """
        ...

    def changed(self, change: Change) -> AbstractContextManager[None]:
        """Let the model compute with other weights for a while; ones that are not scored change too."""
        ...

    def statistics_of_batches(self) -> AbstractContextManager[None]:
        """Let batch normalisation see what it sees in training for a while: a batch, not its running statistics."""
        ...

    def inputs_of_ones(self) -> AbstractContextManager[None]:
        """Let the model see ones for a while: an image of ones, or a token whose embedding is ones."""
        ...

    def stored(self) -> AbstractContextManager[Stored]:
        """Room on disk for one float32 a weight, zeros at first; it is gone afterwards."""
        ...
