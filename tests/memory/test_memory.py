"""The ten tests of the reference, each with a twin that brings the leak back and is caught.

Everything on the device is at the full size of Qwen2.5-1.5B. `pytest -m memory` runs them.
"""

import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import nn

import ltpipe
from ltpipe.api import iterative
from ltpipe.checkpoints.tensorwriter import TensorData
from ltpipe.evaluation.quality import performance_retention
from ltpipe.pruning.masks import unpack

pytestmark = pytest.mark.memory

WEIGHTS = 2 * 1_543_714_304
CHUNK = 14 * 2**20  # temporaries of a million weights


def text(sequences: int, length: int = 128) -> dict[str, torch.Tensor]:
    ids = torch.zeros((sequences, length), dtype=torch.long)
    return {"input_ids": ids, "labels": ids}


def some_mask(model: nn.Module) -> dict[str, torch.Tensor]:
    return {
        name: torch.ones(parameter.shape, dtype=torch.bool)
        for name, parameter in model.named_parameters()
        if parameter.dim() > 1
    }


# 1 -------------------------------------------------------------------------------------------------------------------


def masks_on_cpu(accelerator, create) -> None:
    model = accelerator.qwen()
    with accelerator.measured() as meter:
        mask = create(model, 0.5)
        assert {kept.device.type for kept in mask.values()} == {"cpu"}
        assert meter.held == 0
    assert meter.peak == 0, "ranking takes nothing on the device"


def test_bug1_masks_on_cpu(accelerator):
    masks_on_cpu(accelerator, ltpipe.create_magnitude_mask)

    def on_the_device(model, sparsity):  # noqa: ARG001
        return {name: parameter.abs() > 0.01 for name, parameter in model.named_parameters() if parameter.dim() > 1}

    with pytest.raises(AssertionError):
        masks_on_cpu(accelerator, on_the_device)


# 2 -------------------------------------------------------------------------------------------------------------------


def mask_stays_bool(accelerator, masked) -> None:
    model = accelerator.qwen(layers=2)
    mask = some_mask(model)
    with accelerator.measured() as meter, masked(model, mask):
        assert {kept.dtype for kept in mask.values()} == {torch.bool}
    assert meter.peak <= CHUNK


def test_bug2_mask_bool_not_float32(accelerator):
    mask_stays_bool(accelerator, ltpipe.masked)

    @contextmanager
    def widened(model, mask):
        with torch.no_grad():
            for name, kept in mask.items():
                parameter = model.get_parameter(name)
                parameter.mul_(kept.to(parameter.device).float())
        yield

    with pytest.raises(AssertionError):
        mask_stays_bool(accelerator, widened)


# 3 -------------------------------------------------------------------------------------------------------------------


def restoration_leaks_nothing(accelerator, masked) -> None:
    model = accelerator.qwen()
    with accelerator.measured() as meter:
        with masked(model, some_mask(model)):
            assert meter.held == 0, "the dense weights are not kept beside the pruned ones"
        assert meter.held == 0
    assert meter.peak <= CHUNK


def test_bug3_no_restoration_leaks(accelerator):
    restoration_leaks_nothing(accelerator, ltpipe.masked)

    @contextmanager
    def with_originals(model, mask):
        originals = {name: model.get_parameter(name).detach().clone() for name in mask}
        yield
        for name, original in originals.items():
            model.get_parameter(name).copy_(original)

    with pytest.raises(AssertionError):
        restoration_leaks_nothing(accelerator, with_originals)


# 4 -------------------------------------------------------------------------------------------------------------------


def batches_are_cleaned_up(accelerator, load) -> None:
    model = accelerator.qwen(layers=2)
    peaks = []
    for count in (1, 6):
        with accelerator.measured() as meter:
            batches = load(count, accelerator.device)
            ltpipe.compute_lottery_ticket_quality(model, {}, batches)
            assert meter.held == 0
        peaks.append(meter.peak)
    assert peaks[0] == peaks[1], "more batches take no more memory"


def test_bug4_batch_cleanup(accelerator):
    batches_are_cleaned_up(accelerator, lambda count, device: [text(16)] * count)  # noqa: ARG005

    def all_on_the_device(count, device):
        return [{name: tensor.to(device) for name, tensor in text(16).items()} for _ in range(count)]

    with pytest.raises(AssertionError):
        batches_are_cleaned_up(accelerator, all_on_the_device)


# 5 -------------------------------------------------------------------------------------------------------------------


def bool_equals_float32(apply) -> None:
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        weights = torch.randn(64, 96, generator=generator).to(dtype)
        kept = torch.rand(64, 96, generator=generator) < 0.5
        expected = (weights.double() * kept.double()).to(dtype)
        assert torch.equal(apply(weights, kept), expected)


def by_ltpipe(weights: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    model = nn.Linear(weights.shape[1], weights.shape[0], bias=False)
    model.weight = nn.Parameter(weights.clone(), requires_grad=False)
    with ltpipe.masked(model, {"weight": kept}):
        pruned = model.weight.detach().clone()
    assert torch.equal(model.weight, weights)
    return pruned


def test_numerical_correctness_bool_vs_float32():
    bool_equals_float32(by_ltpipe)
    with pytest.raises(AssertionError):
        bool_equals_float32(lambda weights, kept: weights * (kept.to(torch.uint8) * 255).float().div(256).to(weights))


# 6 -------------------------------------------------------------------------------------------------------------------


def conversion_is_exact(unpacked) -> None:
    kept = np.random.default_rng(0).random((37, 53)) < 0.3
    bits = np.packbits(kept.reshape(-1), bitorder="little")
    assert TensorData.of("mask", bits).nbytes == (kept.size + 7) // 8
    restored = unpacked(bits, kept.shape)
    assert restored.dtype == np.bool_
    assert np.array_equal(restored, kept)


def test_mask_bool_conversion_exact():
    conversion_is_exact(unpack)
    with pytest.raises(AssertionError):
        conversion_is_exact(lambda bits, shape: np.unpackbits(bits, count=37 * 53).view(np.bool_).reshape(shape))


# 7 -------------------------------------------------------------------------------------------------------------------


def multiplication_is_exact(apply) -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        limits = torch.finfo(dtype)
        values = [limits.max, -limits.max, limits.tiny, -limits.tiny, limits.smallest_normal / 4, 1 + limits.eps, -0.0]
        weights = torch.tensor([values, values], dtype=dtype)
        kept = torch.tensor([[True] * len(values), [False] * len(values)])
        pruned = apply(weights, kept)
        assert torch.equal(pruned[0].view(torch.int8), weights[0].view(torch.int8)), "to the bit"
        assert not pruned[1].any()


def test_mask_multiplication_exact():
    multiplication_is_exact(by_ltpipe)
    with pytest.raises(AssertionError):
        multiplication_is_exact(lambda weights, kept: (weights.to(torch.bfloat16) * kept).to(weights.dtype))


# 8 -------------------------------------------------------------------------------------------------------------------

EDGES = [(2.5, 3.0, 2.5 / 3), (2.5, 2.5, 1.0), (3.0, 2.5, 1.2), (2.5, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, 2.5, 0.0)]


def edges_hold(quality) -> None:
    for baseline, pruned, expected in EDGES:
        assert quality(baseline, pruned) == pytest.approx(expected, abs=1e-12)


def test_quality_score_edge_cases():
    edges_hold(performance_retention)
    with pytest.raises((AssertionError, ZeroDivisionError)):
        edges_hold(lambda baseline, pruned: baseline / pruned)


# 9 -------------------------------------------------------------------------------------------------------------------

IN_A_PROCESS = """
import hashlib, torch, ltpipe
from torch import nn
torch.set_num_threads({threads})
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(300, 400), nn.ReLU(), nn.Linear(400, 10)).bfloat16()
mask = ltpipe.create_magnitude_mask(model, 0.7)
names = {order}
digest = hashlib.sha256()
for name in names:
    digest.update(name.encode() + mask[name].numpy().tobytes())
data = [(torch.randn(64, 300).bfloat16(), torch.arange(64) % 10)]
found = ltpipe.compute_lottery_ticket_quality(model, mask, data)
print(digest.hexdigest(), found["loss"].hex(), found["sparsity"].hex())
"""


def same_in_every_process(order: str) -> None:
    said = set()
    for seed, threads in (("1", 1), ("2", 2), ("77", 1)):
        program = IN_A_PROCESS.format(threads=threads, order=order)
        run = subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        )
        said.add(run.stdout)
    assert len(said) == 1


def test_mask_creation_reproducibility():
    same_in_every_process("mask")
    with pytest.raises(AssertionError):
        same_in_every_process("sorted(mask, key=hash)")


# 10 ------------------------------------------------------------------------------------------------------------------


def quality_within_a_twentieth(accelerator, evaluate) -> None:
    model = accelerator.qwen()
    with accelerator.measured() as meter:
        evaluate(model, some_mask(model), text(256))
        assert meter.held == 0, "the device is back to its base level"
    assert WEIGHTS + meter.peak <= 1.05 * WEIGHTS


@pytest.mark.slow
def test_compute_lottery_ticket_quality_memory(accelerator):
    quality_within_a_twentieth(
        accelerator, lambda model, mask, batch: ltpipe.compute_lottery_ticket_quality(model, mask, [batch], 3.0)
    )

    def plainly(model, mask, batch):
        with ltpipe.masked(model, mask), torch.no_grad():
            model(input_ids=batch["input_ids"].to(model.device), use_cache=False)

    with pytest.raises((AssertionError, torch.OutOfMemoryError)):
        quality_within_a_twentieth(accelerator, plainly)


# ---------------------------------------------------------------------------------------------------------------------


def every_iteration_alike(accelerator, monkeypatch, create) -> None:
    """Peaks between the masks of one iteration and the next, over ten iterations of the simulation."""
    model = accelerator.qwen(layers=2)
    peaks = []
    with accelerator.measured() as meter:

        def create_and_note(*arguments):
            peaks.append(meter.peak)
            meter.restart()
            return create(*arguments)

        monkeypatch.setattr(iterative, "create_magnitude_mask", create_and_note)
        ltpipe.compute_iterative_magnitude_pruning(model, [text(2)], num_iterations=10)
        assert meter.held == 0, "the base level is regained to the byte"
    within = peaks[1:]  # before the first mask the dense model was evaluated
    assert len(within) == 10
    assert len(set(within)) == 1, "every iteration takes the same"


@pytest.mark.slow
def test_ten_imp_iterations_take_the_same_memory(accelerator, monkeypatch):
    create = iterative.create_magnitude_mask
    every_iteration_alike(accelerator, monkeypatch, create)
    kept = []

    def keeping(model, sparsity):
        mask = create(model, sparsity)
        kept.append({name: bits.to(accelerator.device) for name, bits in mask.items()})
        return mask

    with pytest.raises(AssertionError):
        every_iteration_alike(accelerator, monkeypatch, keeping)
