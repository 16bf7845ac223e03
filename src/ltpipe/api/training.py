"""Train, rewind, train again: what full iterative magnitude pruning does to a live model."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from ltpipe.api.masking import zero_pruned

Trainer = Callable[[nn.Module], Any]
"""Trains a model in place; what it returns is ignored."""


class TrainingRounds:
    """A context in which a model is trained again and again from the same weights; it leaves with those.

    Parameters and buffers, the mode of each module and every `requires_grad` are kept, on the host, when it is entered.

    Args:
        model: on any device.
        trainer: trains it.
    """

    def __init__(self, model: nn.Module, trainer: Trainer) -> None:
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
            self._trainer(self._model)
        self._model.zero_grad(set_to_none=True)
        zero_pruned(self._model, mask)  # whatever the trainer did, weight averaging for example

    @torch.no_grad()
    def _rewind(self) -> None:
        for tensor, requires_grad, values in self._initial:
            tensor.requires_grad_(requires_grad)
            tensor.copy_(values)
        self._model.zero_grad(set_to_none=True)


def _masking_gradient(kept: torch.Tensor) -> Callable[[torch.Tensor], None]:
    def hook(parameter: torch.Tensor) -> None:
        parameter.grad.masked_fill_(~kept.to(parameter.device), 0)

    return hook
