"""Magnitude masks of live models against an oracle that sorts, and what is approximate against its bound."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from tiny import tiny_model
from torch import nn

import ltpipe
from ltpipe.api import magnitude
from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.fake_device import ByteCounter, fake, fake_accelerator


class Odd(nn.Module):
    """Names whose byte order is not the order of definition, a bias, a vector called weight, a matrix that is not."""

    def __init__(self, dtypes=(torch.float32,) * 3, seed=0, distinct=9):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def values(*shape):
            return (torch.randint(-distinct, distinct + 1, shape, generator=generator) / 8).float()

        self.weight_é = nn.Parameter(values(5, 7).to(dtypes[0]))
        self.weight_10 = nn.Parameter(values(3, 4, 5).to(dtypes[1]))
        self.weight_2 = nn.Parameter(values(40, 3).to(dtypes[2]))
        self.norm_weight = nn.Parameter(values(11))
        self.experts = nn.Parameter(values(2, 3, 4))
        self.linear = nn.Linear(3, 2)


def oracle(model, sparsity, only_weights=True):
    chosen = {n: p for n, p in model.named_parameters() if p.dim() > 1 and ("weight" in n or not only_weights)}
    names = sorted(chosen, key=str.encode)
    flat = np.concatenate([chosen[n].detach().float().numpy().reshape(-1) for n in names])
    kept = np.ones(flat.size, bool)
    kept[np.argsort(np.abs(flat), kind="stable")[: round(sparsity * flat.size)]] = False
    parts = np.split(kept, np.cumsum([chosen[n].numel() for n in names])[:-1])
    return {n: torch.from_numpy(part.reshape(chosen[n].shape)) for n, part in zip(names, parts, strict=True)}


def same(mask, other):
    return list(mask) == list(other) and all(torch.equal(mask[name], other[name]) for name in mask)


F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16


@pytest.mark.parametrize("dtypes", [(F32,) * 3, (BF16,) * 3, (F16,) * 3, (BF16, F32, F16)], ids=str)
@pytest.mark.parametrize("distinct", [0, 2, 9, 1000], ids=lambda distinct: f"{distinct}-values")
def test_equals_a_stable_sort(dtypes, distinct):
    model = Odd(dtypes, seed=distinct, distinct=distinct)
    if dtypes != (F32,) * 3:
        model.linear.to(dtypes[0])
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    for sparsity in (0, 0.1, 0.25, 0.5, 0.77, 0.999, 1):
        mask = ltpipe.create_magnitude_mask(model, sparsity)
        assert same(mask, oracle(model, sparsity)), sparsity
        assert all(kept.dtype == torch.bool and kept.device.type == "cpu" for kept in mask.values())
        assert same(mask, ltpipe.create_magnitude_mask(model, sparsity, use_histogram=False, histogram_bins=7))
    assert same(ltpipe.create_magnitude_mask(model, 0.4, only_weights=False), oracle(model, 0.4, only_weights=False))
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


def test_what_is_prunable():
    assert list(ltpipe.create_magnitude_mask(Odd(), 0.5)) == ["linear.weight", "weight_10", "weight_2", "weight_é"]
    assert "experts" in ltpipe.create_magnitude_mask(Odd(), 0.5, only_weights=False)
    with pytest.raises(UserError, match="no parameter of two or more dimensions with 'weight' in its name"):
        ltpipe.create_magnitude_mask(nn.LayerNorm(4), 0.5)


def test_row_major_order_breaks_ties_whatever_the_memory_layout():
    model = nn.Conv2d(3, 4, 2, bias=False)
    nn.init.ones_(model.weight)
    expected = ltpipe.create_magnitude_mask(model, 0.3)
    assert same(ltpipe.create_magnitude_mask(model.to(memory_format=torch.channels_last), 0.3), expected)


def test_masks_are_nested():
    model = Odd()
    for looser, tighter in pairwise(ltpipe.create_magnitude_mask(model, s / 20) for s in range(21)):
        assert all(bool((looser[name] | ~tighter[name]).all()) for name in looser)


def test_blocks_join_without_a_seam(monkeypatch):
    from ltpipe.pruning import scores

    monkeypatch.setattr(scores, "CHUNK", 16)
    monkeypatch.setattr(scores, "COPIED_CHUNK", 8)
    for dtypes in [(F32,) * 3, (BF16, F32, F16)]:
        model = Odd(dtypes)
        assert same(ltpipe.create_magnitude_mask(model, 0.55), oracle(model, 0.55))


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt2"])
def test_equals_the_mask_of_the_pipeline(architecture, canonical_folder, tmp_path):
    """The same mask as that of the stages, on the same weights; tied embeddings are ranked once in both."""
    from ltpipe.checkpoints.prunable import Selection
    from ltpipe.pruning.build import make_mask
    from ltpipe.pruning.histogram import make_histogram
    from ltpipe.pruning.masks import load_mask

    folder = canonical_folder(architecture)
    make_histogram(Checkpoint.open(folder), "magnitude", None, Selection("all-weights")).write(tmp_path / "counts")
    make_mask(Checkpoint.open(folder), tmp_path / "counts", "global", "0.37", tmp_path / "mask")
    mask = ltpipe.create_magnitude_mask(tiny_model(architecture), 0.37)
    assert ("lm_head.weight" in mask) == (architecture == "llama")
    assert same(mask, load_mask(tmp_path / "mask"))


@pytest.mark.parametrize("bins", [3, 64, 999, 1001, 5000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_other_bins_are_off_by_no_more_than_the_weights_near_the_threshold(bins, dtype):
    model = nn.Linear(60, 70).to(dtype)
    nn.init.normal_(model.weight, generator=torch.Generator().manual_seed(1))
    magnitudes = model.weight.detach().double().abs().numpy().reshape(-1)
    width = (magnitudes.max() - magnitudes.min()) / bins
    for sparsity in (0.0, 0.05, 0.5, 0.9, 0.99):
        (kept,) = ltpipe.create_magnitude_mask(model, sparsity, histogram_bins=bins).values()
        exact = np.quantile(magnitudes, sparsity)
        near = int((np.abs(magnitudes - exact) <= width * (1 + 1e-9)).sum())
        assert abs(int((~kept).sum()) - round(sparsity * kept.numel())) <= near
        certain = np.abs(magnitudes - exact) > width * (1 + 1e-9)
        assert np.array_equal(kept.numpy().reshape(-1)[certain], (magnitudes > exact)[certain])


def test_the_default_bins_are_exact_and_others_are_not():
    model = nn.Linear(100, 100)
    nn.init.normal_(model.weight, generator=torch.Generator().manual_seed(1))
    assert int((~ltpipe.create_magnitude_mask(model, 0.333)["weight"]).sum()) == 3330
    assert int((~ltpipe.create_magnitude_mask(model, 0.333, histogram_bins=10)["weight"]).sum()) != 3330


@pytest.mark.parametrize("bins", [1, 10, 1000])
@pytest.mark.parametrize("values", ["normal", "two", "lonely", "equal", "bfloat16"])
def test_quantile_is_within_a_bin_of_numpy(values, bins):
    generator = torch.Generator().manual_seed(3)
    tensor = {
        "normal": torch.randn(37, 41, generator=generator),
        "two": torch.tensor([-5.0, 3.0]),
        "lonely": torch.cat([torch.randn(200, generator=generator), torch.tensor([1e6])]),
        "equal": torch.full((9,), 2.5),
        "bfloat16": torch.randn(999, generator=generator).bfloat16(),
    }[values]
    flat = tensor.double().numpy().reshape(-1)
    found = [ltpipe.compute_histogram_quantile(tensor, q, bins) for q in np.linspace(0, 1, 41)]
    expected = np.quantile(flat, np.linspace(0, 1, 41))
    assert np.abs(np.array(found) - expected).max() <= (flat.max() - flat.min()) / bins * (1 + 1e-9)
    assert (found[0], found[-1]) == (flat.min(), flat.max())
    assert (np.diff(found) >= 0).all()


def test_quantile_in_chunks_is_the_same(monkeypatch):
    values = torch.randn(1000, generator=torch.Generator().manual_seed(3))
    whole = ltpipe.compute_histogram_quantile(values, 0.3)
    monkeypatch.setattr(magnitude, "_CHUNK", 7)
    assert ltpipe.compute_histogram_quantile(values, 0.3) == whole


@pytest.mark.parametrize(
    ("values", "q", "bins", "message"),
    [
        ([1.0], 1.5, 10, "quantile 1.5 is not allowed"),
        ([1.0], 0.5, 0, "bins: 0 is not allowed"),
        ([], 0.5, 10, "no values"),
        ([1.0, float("nan")], 0.5, 10, "not a number"),
    ],
)
def test_quantile_refuses(values, q, bins, message):
    with pytest.raises(UserError, match=message):
        ltpipe.compute_histogram_quantile(torch.tensor(values), q, bins)


def test_importance_is_the_magnitude():
    model = Odd((BF16,) * 3)
    importance = ltpipe.compute_magnitude_importance(model)
    assert list(importance) == list(ltpipe.create_magnitude_mask(model, 0.5))
    for name, score in importance.items():
        parameter = model.get_parameter(name)
        assert score.dtype == parameter.dtype
        assert score.data_ptr() != parameter.data_ptr()
        assert torch.equal(score, parameter.detach().abs())


@pytest.mark.parametrize("bins", [1000, 10])
def test_refuses_weights_that_have_no_rank(bins):
    model = nn.Linear(3, 3)
    with pytest.raises(UserError, match="fraction from 0 to 1"):
        ltpipe.create_magnitude_mask(model, 1.01, histogram_bins=bins)
    with pytest.raises(UserError, match="meta device"):
        ltpipe.create_magnitude_mask(nn.Linear(3, 3, device="meta"), 0.5, histogram_bins=bins)
    model.weight.data[1, 1] = torch.nan
    with pytest.raises(UserError, match="not a number"):
        ltpipe.create_magnitude_mask(model, 0.5, histogram_bins=bins)
    if bins == 1000:
        with pytest.raises(UserError, match="dtype F64"):
            ltpipe.create_magnitude_mask(nn.Linear(3, 3).double(), 0.5)


def test_nothing_is_made_on_the_device_and_one_parameter_at_a_time_on_the_host(monkeypatch):
    """On an accelerator that is not there: ranking is replaced by something that reads each parameter as it does."""
    device = fake_accelerator()

    def read_all(weights, sparsity):  # noqa: ARG001
        for name in weights.parameters:
            weights.tensor(name)
        return {}

    monkeypatch.setattr(magnitude, "_rank", read_all)
    with fake():
        model = nn.Sequential(*(nn.Linear(64, 32 * size, device=device) for size in (1, 4, 2)))
        with ByteCounter(device) as on_device, ByteCounter(torch.device("cpu")) as on_host:
            ltpipe.create_magnitude_mask(model, 0.5)
    assert on_device.peak.total == 0
    assert on_host.peak.total == 4 * 64 * 128
