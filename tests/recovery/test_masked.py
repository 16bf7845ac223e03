"""Held weights against the same computation by autograd."""

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from ltpipe.pruning.apply import as_torch
from ltpipe.pruning.masks import pack
from ltpipe.recovery.masked import DOWN, UP, HeldWeight, add_change, changed_weight, hold

ROWS, COLUMNS, RANK, SCALE = 13, 11, 3, 2.5  # 143 weights: the last byte of bits is not full


class OwnLinear(nn.Linear):
    """As in Falcon."""

    def forward(self, inputs):
        return inputs @ self.weight.T + self.bias


def layers(kind: str, dtype: torch.dtype, masked: bool, changed: bool):
    """A layer with a held weight, its weight in float32, and its mask."""
    generator = torch.Generator().manual_seed(1)
    made = {"Linear": nn.Linear, "Conv1D": Conv1D, "own": OwnLinear}
    layer = made[kind](COLUMNS, ROWS)
    stored = torch.randn(ROWS, COLUMNS, generator=generator).to(dtype)
    kept = torch.rand(ROWS, COLUMNS, generator=generator) < (0.5 if masked else 2)
    bits = as_torch(pack(kept.numpy()), "U8") if masked else None
    held = HeldWeight(stored, bits, kind == "Conv1D", SCALE)
    hold(layer, held)
    if changed:
        add_change(layer, held, RANK, 0, "name")
        with torch.no_grad():
            layer.get_parameter(UP).normal_(generator=generator)
    return layer, held, stored.float(), kept


@pytest.mark.parametrize("changed", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["Linear", "Conv1D", "own"])
@pytest.mark.parametrize("through", ["call", "weight"])
def test_outputs_and_gradients_are_those_of_the_masked_matrix(kind, dtype, masked, changed, through):
    layer, held, stored, kept = layers(kind, dtype, masked, changed)
    inputs = torch.randn(2, 5, ROWS if kind == "Conv1D" else COLUMNS, requires_grad=True)
    own = inputs.detach().clone().requires_grad_()
    whole = stored
    factors = []
    if changed:
        factors = [layer.get_parameter(name).detach().clone().requires_grad_() for name in (UP, DOWN)]
        whole = stored + SCALE * factors[0] @ factors[1]
    whole = whole * kept
    wanted = own @ (whole if kind == "Conv1D" else whole.T) + layer.bias
    if through == "call":
        found = layer(inputs)
    else:
        weight = layer.weight
        assert weight.dtype == torch.float32
        assert not weight[~kept].any()
        found = inputs @ (weight if kind == "Conv1D" else weight.T) + layer.bias
    torch.testing.assert_close(found, wanted)
    target = torch.randn_like(wanted)
    (found * target).sum().backward()
    (wanted * target).sum().backward()
    torch.testing.assert_close(inputs.grad, own.grad)
    for name, factor in zip((UP, DOWN), factors, strict=False):
        torch.testing.assert_close(layer.get_parameter(name).grad, factor.grad)
    if changed:
        assert torch.equal(changed_weight(layer, held), layer.weight.detach())
    assert {name for name, _ in layer.named_parameters()} == {"bias", *((UP, DOWN) if changed else ())}


def test_a_change_is_0_at_first_and_others_have_other_draws():
    layer, held, stored, kept = layers("Linear", torch.float32, masked=True, changed=False)
    add_change(layer, held, RANK, 4, "one")
    assert torch.equal(layer.weight, stored * kept)
    first = layer.get_parameter(DOWN).clone()
    add_change(layer, held, RANK, 4, "other")
    assert not torch.equal(layer.get_parameter(DOWN), first)
    add_change(layer, held, RANK, 4, "one")
    assert torch.equal(layer.get_parameter(DOWN), first)


def test_under_autocast_the_product_is_in_its_dtype():
    layer, *_ = layers("Linear", torch.float32, masked=True, changed=True)
    inputs = torch.randn(4, COLUMNS, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(inputs)
    assert found.dtype == torch.bfloat16
    found.float().sum().backward()
    assert layer.get_parameter(UP).grad.dtype == torch.float32
    assert inputs.grad.dtype == torch.float32
