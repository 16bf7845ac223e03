"""Train, rewind, train again: full iterative magnitude pruning of a live model."""

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

It trains the model in place and may return it."""

PERMISSION = "LTPIPE_ALLOW_IMP_TRAINING"
"""The environment variable that allows training if set to `1`, like `train=True`."""


def is_allowed(train: bool) -> bool:
    """Return whether the caller or the environment allows a trainer to run."""
    return train or os.environ.get(PERMISSION) == "1"


def with_dataloader(trainer: Trainer, dataloader: Iterable[Any]) -> Callable[[nn.Module], Any]:
    """Return a trainer as a function of the model alone.

    Raises:
        UserError: the trainer takes neither one argument nor two.
    """
    try:
        signature = inspect.signature(trainer)
    except (TypeError, ValueError):  # a callable without a signature, such as one from an extension module
        return lambda model: trainer(model, dataloader)
    for arguments in ((None, None), (None,)):
        try:
            signature.bind(*arguments)
        except TypeError:
            continue
        return trainer if len(arguments) == 1 else lambda model: trainer(model, dataloader)
    raise UserError(f"trainer_fn: it takes {signature}; use a function of (model, dataloader) or of (model)")


class TrainingRounds:
    """A context in which a model is trained repeatedly from the same weights, which are restored on exit.

    On entry it saves parameters, buffers, each module's mode and every `requires_grad` on the host.

    Args:
        model: on any device.
        trainer: trains the model in place.
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
        """Rewind, prune, and train with pruned weights at zero."""
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
        zero_pruned(self._model, mask)  # the trainer may have changed them, for example by weight averaging

    def _check(self, returned: object) -> None:
        """Raise UserError if the trainer returned a model other than the one given or a wrapper of it."""
        if not isinstance(returned, nn.Module):
            return
        if not {id(each) for each in self._model.parameters()} <= {id(each) for each in returned.parameters()}:
            raise UserError(
                "trainer_fn: it returned a different model from the one it was given, whose pruned weights alone stay "
                "zero; train the given model in place"
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
