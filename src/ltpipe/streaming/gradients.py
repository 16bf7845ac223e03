"""Gradients on their way from autograd to whoever wants them: one at a time, and freed at once."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Protocol

import torch
from torch import nn


class GradientSink(Protocol):
    """Takes gradients as they appear."""

    def add(self, name: str, weight: torch.Tensor, gradient: torch.Tensor) -> None:
        """Take the gradient that one micro-batch gives; it is freed afterwards.

        Args:
            name: stored name of the weight.
            weight: its values as computed with, masked if the model is; not to be changed.
            gradient: of the summed loss, of the weight's shape, dtype and device; not to be changed or kept.
        """
        ...

    def finish(self, block: str) -> None:
        """Learn that the gradients of a block, by its full name, are complete. Blocks come last to first."""
        ...


class HandedOut:
    """Gradients on their way to the sink, each exactly once a micro-batch."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], sink: GradientSink) -> None:
        self._parameters, self._sink = parameters, sink
        self._missing: set[str] = set()

    @contextmanager
    def of_micro_batch(self) -> Iterator[None]:
        """Let the backward pass of a micro-batch run, and hand out zeros for what it did not reach."""
        self._missing = set(self._parameters)
        yield
        for name in sorted(self._missing):
            parameter = self._parameters[name].detach()
            self._sink.add(name, parameter, parameter.new_zeros(()).expand_as(parameter))

    def take(self, name: str, parameter: nn.Parameter) -> None:
        """Hand out a gradient that is complete, and free it."""
        gradient, parameter.grad = gradient_of(parameter), None
        self._missing.discard(name)
        with torch.no_grad():
            self._sink.add(name, parameter.detach(), gradient)


def gradient_of(tensor: torch.Tensor) -> torch.Tensor:
    """The gradient that a backward pass has left in a tensor."""
    if tensor.grad is None:
        raise RuntimeError("no gradient has arrived")
    return tensor.grad


@contextmanager
def handing_out(parameters: Mapping[str, nn.Parameter], sink: GradientSink) -> Iterator[HandedOut]:
    """Let parameters have gradients for a while, and the sink get them."""
    gradients = HandedOut(parameters, sink)
    hooks = [
        parameter.requires_grad_().register_post_accumulate_grad_hook(partial(gradients.take, name))
        for name, parameter in parameters.items()
    ]
    try:
        yield gradients
    finally:
        for hook, parameter in zip(hooks, parameters.values(), strict=True):
            hook.remove()
            parameter.requires_grad_(False)
