"""Train, rewind, train again: what full iterative magnitude pruning does to a live model."""

import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from ltpipe.api.masking import zero_pruned
from ltpipe.runtime.errors import UserError

Trainer = Callable[..., Any]
"""Called as `trainer(model, dataloader)`, or `trainer(model)` if it takes one argument.

It trains the model in place, and may return it."""

PERMISSION = "LTPIPE_ALLOW_IMP_TRAINING"
"""The environment variable that allows training where it is `1`, as `train=True` does."""


def is_allowed(train: bool) -> bool:
    """Whether a trainer may run: the caller says so, or the environment does."""
    return train or os.environ.get(PERMISSION) == "1"


def with_dataloader(trainer: Trainer, dataloader: Iterable[Any]) -> Callable[[nn.Module], Any]:
    """A trainer as a function of the model alone.

    Raises:
        UserError: it takes neither one argument nor two.
    """
    try:
        signature = inspect.signature(trainer)
    except (TypeError, ValueError):  # a callable without a signature, of an extension for example
        return lambda model: trainer(model, dataloader)
    for arguments in ((None, None), (None,)):
        try:
            signature.bind(*arguments)
        except TypeError:
            continue
        return trainer if len(arguments) == 1 else lambda model: trainer(model, dataloader)
    raise UserError(
        f"trainer_fn: it is called as trainer_fn(model, dataloader), or trainer_fn(model), but takes {signature}"
    )


class TrainingRounds:
    """A context in which a model is trained again and again from the same weights; it leaves with those.

    Parameters and buffers, the mode of each module and every `requires_grad` are kept, on the host, when it is entered.

    Args:
        model: on any device.
        trainer: trains it in place.
    """

    def __init__(self, model: nn.Module, trainer: Callable[[nn.Module], Any]) -> None:
        self._model, self._trainer = model, trainer

    def __enter__(self) -> "TrainingRounds":
        self._modes = [(module, module.training) for module in self._model.modules()]
        held = [*self._model.parameters(), *self._model.buffers()]
        self._initial = [(tensor, tensor.requires_grad, tensor.detach().to("cpu", copy=True)) for tensor in held]
        return self

    def __exit__(self, *_: object) -> None:
        self._rewind()
        for module, training in self._modes:
            module.training = training

    def train(self, mask: Mapping[str, torch.Tensor]) -> None:
        """Rewind, prune, and train with the pruned weights at zero."""
        self._rewind()
        zero_pruned(self._model, mask)
        parameters = dict(self._model.named_parameters(remove_duplicate=False))
        with ExitStack() as stack:
            for name, kept in mask.items():
                if parameters[name].requires_grad:
                    handle = parameters[name].register_post_accumulate_grad_hook(_masking_gradient(kept))
                    stack.callback(handle.remove)
            returned = self._trainer(self._model)
        self._check(returned)
        self._model.zero_grad(set_to_none=True)
        zero_pruned(self._model, mask)  # whatever the trainer did, weight averaging for example

    def _check(self, returned: object) -> None:
        """Raise UserError if the trainer returned another model than it was given, and not one that wraps it."""
        if not isinstance(returned, nn.Module):
            return
        if not {id(each) for each in self._model.parameters()} <= {id(each) for each in returned.parameters()}:
            raise UserError(
                "trainer_fn: it returned another model than it was given; train that one in place, for only its pruned "
                "weights are held at zero"
            )

    @torch.no_grad()
    def _rewind(self) -> None:
        for tensor, requires_grad, values in self._initial:
            tensor.requires_grad_(requires_grad)
            tensor.copy_(values)
        self._model.zero_grad(set_to_none=True)


def _masking_gradient(kept: torch.Tensor) -> Callable[[torch.Tensor], None]:
    def hook(parameter: torch.Tensor) -> None:
        if parameter.grad is not None:
            parameter.grad.masked_fill_(~kept.to(parameter.device), 0)

    return hook
