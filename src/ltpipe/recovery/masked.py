"""Linear layers whose frozen weights stay as they are stored and are masked as they are used, with low-rank changes.

The weight of a layer is M ⊙ (W + (α / r) U D), with W as stored, mask M, and the change U D of rank r (LoRA, Hu et al.
2021, 2106.09685, masked as MaskLoRA of Zimmer et al. 2023, 2312.15230): what is trained is what is merged, and pruned
weights are exactly 0 throughout. The product is made again in the backward pass, so that no masked copy of a weight
outlives the layer's own computation, and weights of a mapped file take no private memory. A model that takes a
layer's weight instead of calling the layer gets the same masked weight.

The gradient of U and D needs that of the whole weight, which plain LoRA does not: a step has half as much arithmetic
again in these layers.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from ltpipe.pruning.apply import masked
from ltpipe.training.randomness import generator

UP, DOWN = "lora_up", "lora_down"
CONV1D = "Conv1D"
"""Class of the linear layers of GPT-2, whose weights are [inputs, outputs]."""


@dataclass(frozen=True)
class HeldWeight:
    """A frozen weight.

    Attributes:
        stored: the weight, [rows, columns], in any floating-point dtype.
        bits: packed bits of its mask, on its device; None if it has no mask.
        inputs_first: whether rows are inputs, as in Conv1D of GPT-2, not outputs as in `nn.Linear`.
        scale: α / r.
    """

    stored: torch.Tensor
    bits: torch.Tensor | None
    inputs_first: bool
    scale: float = 1.0

    def weight(self, dtype: torch.dtype, up: torch.Tensor | None, down: torch.Tensor | None) -> torch.Tensor:
        """Return the weight that the layer multiplies with, in `dtype`."""
        if up is None or down is None:
            return self.stored.to(dtype) if self.bits is None else masked(self.stored, self.bits, dtype)
        changed = torch.addmm(self.stored.to(torch.float32), up, down, alpha=self.scale)
        return changed.to(dtype) if self.bits is None else masked(changed, self.bits, dtype)


class _Product(torch.autograd.Function):
    """The product of inputs [..., in] and a held weight, [..., out]."""

    @staticmethod
    def forward(
        ctx: Any, inputs: torch.Tensor, held: HeldWeight, up: torch.Tensor | None, down: torch.Tensor | None
    ) -> torch.Tensor:
        weight = held.weight(inputs.dtype, up, down)
        ctx.held = held
        # Without changes, gradients need no inputs.
        ctx.save_for_backward(*(() if up is None or down is None else (inputs, up, down)))
        return inputs @ (weight if held.inputs_first else weight.T)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        held, saved = ctx.held, ctx.saved_tensors
        grad_inputs = None
        if ctx.needs_input_grad[0]:
            weight = held.weight(grad.dtype, *(saved[1:] or (None, None)))
            grad_inputs = grad @ (weight.T if held.inputs_first else weight)
        if not saved:
            return grad_inputs, None, None, None
        inputs, up, down = saved
        rows, columns = grad.flatten(0, -2), inputs.flatten(0, -2)
        if held.inputs_first:
            rows, columns = columns, rows
        return grad_inputs, None, *_of_change(held, rows.T @ columns, up, down)


class _Weight(torch.autograd.Function):
    """A held weight itself, float32 [rows, columns], for models that take it from its layer."""

    @staticmethod
    def forward(ctx: Any, held: HeldWeight, up: torch.Tensor | None, down: torch.Tensor | None) -> torch.Tensor:
        ctx.held = held
        ctx.save_for_backward(*(() if up is None or down is None else (up, down)))
        return held.weight(torch.float32, up, down)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return None, *(_of_change(ctx.held, grad, *ctx.saved_tensors) if ctx.saved_tensors else (None, None))


def _of_change(
    held: HeldWeight, grad: torch.Tensor, up: torch.Tensor, down: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradients of U and D, given that of the whole weight."""
    whole = grad.to(torch.float32)
    if held.bits is not None:
        whole = masked(whole.contiguous(), held.bits, torch.float32)
    whole = whole * held.scale
    return whole @ down.T, up.T @ whole


def hold(layer: nn.Module, held: HeldWeight) -> None:
    """Replace a linear layer's weight by a held one. Its attribute `weight` is made anew whenever it is read.

    A layer of a class of the model's own, derived from `nn.Linear`, keeps its forward, which reads the attribute.
    """
    read: Callable[..., torch.Tensor] = _Weight.apply

    def weight(own: nn.Module) -> torch.Tensor:
        return read(held, own._parameters.get(UP), own._parameters.get(DOWN))

    kind = type(layer)
    del layer._parameters["weight"]
    layer.__class__ = type(kind.__name__, (kind,), {"weight": property(weight)})
    if kind is nn.Linear or kind.__name__ == CONV1D:
        layer.forward = partial(_forward, layer, held)


def add_change(layer: nn.Module, held: HeldWeight, rank: int, seed: int, name: str) -> None:
    """Give a layer with a held weight parameters for a change of some rank, 0 at first: U is 0, D is random."""
    rows, columns = held.stored.shape
    device = held.stored.device
    bound = 1 / math.sqrt(columns)  # Kaiming's uniform initialisation with a = √5, as LoRA's code has it
    down = torch.empty(rank, columns).uniform_(-bound, bound, generator=generator(seed, "low-rank change", name))
    layer.register_parameter(UP, nn.Parameter(torch.zeros(rows, rank, device=device)))
    layer.register_parameter(DOWN, nn.Parameter(down.to(device)))


def changed_weight(layer: nn.Module, held: HeldWeight) -> torch.Tensor:
    """Return a held weight with its change, masked, float32."""
    up, down = layer.get_parameter(UP).detach(), layer.get_parameter(DOWN).detach()
    return held.weight(torch.float32, up, down)


def _forward(layer: nn.Module, held: HeldWeight, inputs: torch.Tensor) -> torch.Tensor:
    kind = inputs.device.type
    if torch.is_autocast_enabled(kind):
        inputs = inputs.to(torch.get_autocast_dtype(kind))
    parameters = layer._parameters
    product: Callable[..., torch.Tensor] = _Product.apply
    found = product(inputs, held, parameters.get(UP), parameters.get(DOWN))
    bias = getattr(layer, "bias", None)
    return found if bias is None else found + bias.to(found.dtype)
