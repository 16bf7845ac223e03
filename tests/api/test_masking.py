"""masked(): zeros inside, the very same bits outside, whatever happens."""

import pytest
import torch
from tiny import tiny_model
from torch import nn

import ltpipe
from ltpipe.api import masking
from ltpipe.runtime.errors import UserError

BITS = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float64: torch.int64}


@pytest.fixture(params=[7, 1 << 20], ids=["small-chunks", "one-chunk"], autouse=True)
def _chunks(request, monkeypatch):
    monkeypatch.setattr(masking, "_CHUNK", request.param)


def strange(dtype=torch.float32):
    """A layer that holds every bit pattern that arithmetic would lose: NaN payloads, -0.0, denormals, infinities."""
    model = nn.Linear(9, 8).to(dtype)
    bits = model.weight.data.view(BITS[dtype])
    low, high = torch.iinfo(bits.dtype).min, torch.iinfo(bits.dtype).max
    bits.copy_(torch.randint(low, high, bits.shape, generator=torch.Generator().manual_seed(0)))
    bits[0, :5] = torch.tensor([low, 1, high, high - 1, -1])
    return model


def bits_of(model):
    return {name: p.detach().clone().view(BITS[p.dtype]) for name, p in model.named_parameters()}


def random_mask(shape, seed=1):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5


def unchanged(model, before):
    return all(torch.equal(bits, before[name]) for name, bits in bits_of(model).items())


@pytest.mark.parametrize("dtype", BITS, ids=str)
def test_zero_inside_and_bit_exact_outside(dtype):
    model = strange(dtype)
    before, pointer = bits_of(model), model.weight.data_ptr()
    kept = random_mask((8, 9))
    with ltpipe.masked(model, {"weight": kept}) as same_model:
        assert same_model is model
        inside = model.weight.detach().view(BITS[dtype])
        assert torch.equal(inside, torch.where(kept, before["weight"], 0))
        assert torch.equal(model.bias.detach().view(BITS[dtype]), before["bias"])
    assert unchanged(model, before)
    assert model.weight.data_ptr() == pointer


def test_bit_exact_after_an_exception_in_the_body():
    model = strange()
    before, kept = bits_of(model), random_mask((8, 9))
    mask = {"weight": kept.clone()}
    with pytest.raises(KeyboardInterrupt), ltpipe.masked(model, mask):
        raise KeyboardInterrupt
    assert unchanged(model, before)
    assert torch.equal(mask["weight"], kept)


def test_bit_exact_after_an_exception_while_the_mask_is_applied(monkeypatch):
    model = nn.Sequential(strange(), strange())
    before, calls = bits_of(model), []

    def fails_late(values, chosen, selected):
        calls.append(values)
        if len(calls) == 2:
            raise MemoryError
        return select(values, chosen, selected)

    select = masking.masking_kernels.select
    monkeypatch.setattr(masking.masking_kernels, "select", fails_late)
    mask = {"0.weight": random_mask((8, 9)), "1.weight": random_mask((8, 9))}
    with pytest.raises(MemoryError), ltpipe.masked(model, mask):
        raise AssertionError("never reached")
    assert unchanged(model, before)


def test_a_mask_that_is_changed_meanwhile_does_no_harm():
    model = strange()
    before, mask = bits_of(model), {"weight": random_mask((8, 9))}
    with ltpipe.masked(model, mask):
        mask["weight"].fill_(True)
        mask.clear()
    assert unchanged(model, before)


def test_the_body_may_write_to_kept_weights_only():
    model = nn.Linear(4, 4)
    before, kept = model.weight.detach().clone(), random_mask((4, 4))
    with ltpipe.masked(model, {"weight": kept}), torch.no_grad():
        model.weight.fill_(7)
    assert torch.equal(model.weight.detach(), torch.where(kept, torch.full((), 7.0), before))


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "lm_head.weight"])
def test_tied_weights_are_masked_once_and_stay_tied(name):
    model = tiny_model("qwen2")
    before = bits_of(model)
    kept = random_mask(model.lm_head.weight.shape)
    with ltpipe.masked(model, {name: kept}):
        assert model.lm_head.weight is model.model.embed_tokens.weight
        assert torch.equal(model.lm_head.weight == 0, ~kept)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert unchanged(model, before)
    both = {"lm_head.weight": kept, "model.embed_tokens.weight": kept}
    with pytest.raises(UserError, match="one tied parameter"), ltpipe.masked(model, both):
        pass


def test_parameters_that_share_memory():
    """As views of one fused matrix: what the second has saved contains zeros of the first."""
    values = torch.arange(1.0, 2**21 + 1)
    model = torch.nn.Module()
    model.a, model.b = torch.nn.Parameter(values), torch.nn.Parameter(values[2**19 :])
    before, generator = values.clone(), torch.Generator().manual_seed(0)
    mask = {name: torch.rand(each.shape, generator=generator) < 0.5 for name, each in model.named_parameters()}
    for _ in range(3):
        with ltpipe.masked(model, mask):
            assert not model.a[~mask["a"]].any()
            assert not model.b[~mask["b"]].any()
        assert torch.equal(values, before)


def test_channels_last_and_transposed_parameters():
    model = nn.Conv2d(3, 4, 2).to(memory_format=torch.channels_last)
    model.extra = nn.Parameter(torch.randn(5, 6).T)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    mask = {name: random_mask(before[name].shape) for name in ("weight", "extra")}
    with ltpipe.masked(model, mask):
        assert torch.equal(model.weight == 0, ~mask["weight"])
        assert torch.equal(model.extra == 0, ~mask["extra"])
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


def test_nested_masks_and_inference_mode():
    model = strange()
    before = bits_of(model)
    with ltpipe.masked(model, {"weight": random_mask((8, 9), 1)}):
        once = bits_of(model)
        with torch.inference_mode(), ltpipe.masked(model, {"weight": random_mask((8, 9), 2)}):
            assert not unchanged(model, once)
        assert unchanged(model, once)
    assert unchanged(model, before)
    with torch.inference_mode():
        frozen = nn.Linear(3, 3)
    with ltpipe.masked(frozen, {"weight": torch.zeros(3, 3, dtype=torch.bool)}):
        assert frozen.weight.count_nonzero() == 0
    assert frozen.weight.count_nonzero() > 0


def test_the_dense_model():
    model = strange()
    before = bits_of(model)
    with ltpipe.masked(model, {}):
        assert unchanged(model, before)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ({"wieght": torch.ones(8, 9, dtype=torch.bool)}, "no parameter 'wieght'; it has parameters such as"),
        ({"weight": torch.ones(9, 8, dtype=torch.bool)}, r"shape \(9, 8\); the parameter has \(8, 9\)"),
        ({"weight": torch.ones(8, 9)}, "'weight' is torch.float32; use a bool tensor"),
        ({"weight": [True]}, "'weight' is list"),
    ],
)
def test_refuses_a_mask_that_does_not_fit(mask, message):
    model = strange()
    before = bits_of(model)
    with pytest.raises(UserError, match=message) as caught, ltpipe.masked(model, mask):
        pass
    assert "\n" not in str(caught.value)
    assert unchanged(model, before)


def test_refuses_parameters_without_memory_of_their_own_and_casts():
    model = nn.Linear(4, 4)
    model.weight = nn.Parameter(torch.zeros(1, 4).expand(4, 4), requires_grad=False)
    everything = {"weight": torch.zeros(4, 4, dtype=torch.bool)}
    with pytest.raises(UserError, match="cannot be masked in place"), ltpipe.masked(model, everything):
        pass
    model = nn.Linear(4, 4)
    with pytest.raises(UserError, match=r"cast from torch\.float32"), ltpipe.masked(model, everything):
        model.half()
