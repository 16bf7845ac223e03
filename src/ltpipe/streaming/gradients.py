"""Hands out gradients from autograd one at a time, and frees each at once."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Protocol

import torch
from torch import nn


class GradientSink(Protocol):
    """Takes gradients as they appear."""

    def add(self, name: str, weight: torch.Tensor, gradient: torch.Tensor) -> None:
        """Take the gradient from one micro-batch; it is freed afterwards.

        Args:
            name: stored name of the weight.
            weight: the values used in the computation, masked if the model is; do not change them.
            gradient: gradient of the summed loss, with the weight's shape, dtype and device; do not change or keep it.
        """
        ...

    def finish(self, block: str) -> None:
        """Take note that the gradients of a block, by its full name, are complete. Blocks come last to first."""
        ...


class HandedOut:
    """Hands gradients to the sink, each exactly once per micro-batch."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], sink: GradientSink) -> None:
        self._parameters, self._sink = parameters, sink
        self._missing: set[str] = set()

    @contextmanager
    def of_micro_batch(self) -> Iterator[None]:
        """Wrap the backward pass of a micro-batch, and hand out zeros for weights it did not reach."""
        self._missing = set(self._parameters)
        yield
        for name in sorted(self._missing):
            parameter = self._parameters[name].detach()
            self._sink.add(name, parameter, parameter.new_zeros(()).expand_as(parameter))

    def take(self, name: str, parameter: nn.Parameter) -> None:
        """Hand out a complete gradient, and free it."""
        gradient, parameter.grad = gradient_of(parameter), None
        self._missing.discard(name)
        with torch.no_grad():
            self._sink.add(name, parameter.detach(), gradient)


def gradient_of(tensor: torch.Tensor) -> torch.Tensor:
    """Return the gradient that a backward pass has left in a tensor."""
    if tensor.grad is None:
        raise RuntimeError("no gradient has arrived")
    return tensor.grad


@contextmanager
def handing_out(parameters: Mapping[str, nn.Parameter], sink: GradientSink) -> Iterator[HandedOut]:
    """Give parameters gradients inside the context, and pass them to the sink."""
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
