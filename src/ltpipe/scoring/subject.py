"""A model that is being scored, as a criterion sees it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal, Protocol

import torch
from torch import nn

from ltpipe.runtime.errors import UserError
from ltpipe.scoring.stored import Stored

Deliver = Callable[[str, torch.Tensor], None]
"""Takes the name of a weight tensor and its scores, float32 on the CPU."""

Change = Callable[[str, torch.Tensor], torch.Tensor]
"""Maps a stored tensor, with its name, to the one to compute with in its place; it must not write to the stored one."""

Objective = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""What to differentiate in place of the loss: float32 logits [rows, classes], int64 labels [rows] to float32 [rows]."""


@contextmanager
def embedding_of_ones(model: nn.Module) -> Iterator[None]:
    """Temporarily make the embedding of every token ones.

    Raises:
        UserError: the model has no method get_input_embeddings.
    """
    find: Callable[[], nn.Module] | None = getattr(model, "get_input_embeddings", None)
    if find is None:
        raise UserError("this criterion needs the model's embedding; add a method get_input_embeddings to the model")
    hook = find().register_forward_hook(lambda _module, _inputs, output: torch.ones_like(output))
    try:
        yield
    finally:
        hook.remove()


class Accumulator(Protocol):
    """Accumulates scores from the gradients of one weight tensor; see `GradientCriterion`."""

    def add(self, weight: torch.Tensor, gradient: torch.Tensor) -> None:
        """Take a gradient."""
        ...

    def result(self) -> torch.Tensor:
        """Return scores, float32."""
        ...


AccumulatorType = Callable[[Sequence[int], torch.device, float], Accumulator]


class Subject(Protocol):
    """A model as a criterion sees it, whether it is a streamed checkpoint or a model in training.

    Attributes:
        names: weights to score, in canonical order.
        options: the criterion's options, of its options type.
    """

    names: tuple[str, ...]
    options: Any

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a weight."""
        ...

    def weight(self, name: str) -> torch.Tensor:
        """Return a weight as stored, whatever the model computes with: float32 on the CPU, read-only."""
        ...

    def gradients(self, make: AccumulatorType, deliver: Deliver, objective: Objective = ...) -> None:
        """Accumulate the gradients of every weight over all calibration examples, and deliver the results.

        Gradients are those of the loss *summed* over a micro-batch, or of another objective.
        """
        ...

    def hessian_gradient(self, deliver: Deliver, objective: Objective = ...) -> None:
        """Deliver Hg: the Hessian of the loss, summed over all calibration examples, times its gradient.

        Both are with respect to the scored weights, and of the loss or another objective. The delivered tensors may be
        overwritten.
        """
        ...

    def input_norms(self) -> dict[str, torch.Tensor]:
        """Return the L2 norm of each input of every weight over all examples, float32 on the CPU.

        They have the weight's shape, or [matrices, rows, columns] if one of its dimensions has several matrices.

        Raises:
            UserError: a weight does not belong to a linear layer.
        """
        ...

    def changed(self, change: Change) -> AbstractContextManager[None]:
        """Make the model compute with changed weights inside the context; unscored weights change too."""
        ...

    def normalising(self, mode: Literal["eval", "train"]) -> AbstractContextManager[None]:
        """Make batch normalisation use running statistics inside the context, or those of batches as in training.

        Dropout is off in both.
        """
        ...

    def inputs_of_ones(self) -> AbstractContextManager[None]:
        """Make the model's input ones inside the context: an image of ones, or token embeddings of ones."""
        ...

    def stored(self) -> AbstractContextManager[Stored]:
        """Give space on disk for one float32 per weight, initially zeros; removed on exit."""
        ...
