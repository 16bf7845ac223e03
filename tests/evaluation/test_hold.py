"""Evaluation within a memory budget, and after memory ran out all the same."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.filenames import TOKENIZER
from ltpipe.data.sequences import TokenSequences
from ltpipe.evaluation.computing import ComputeSettings
from ltpipe.evaluation.evaluate import evaluate_checkpoint
from ltpipe.evaluation.metrics import Metrics
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.files import sha256_of
from ltpipe.runtime.memory import GIB
from ltpipe.streaming import model as streaming


@pytest.fixture
def evaluate(canonical_folder, tmp_path: Path):
    folder = canonical_folder("llama")
    ids = np.random.default_rng(0).integers(3, 90, (8, 32), dtype=np.int32)
    TokenSequences(ids, 8, 1, sha256_of(folder / TOKENIZER)).write(tmp_path / "sequences")

    def run(**settings) -> Metrics:
        names = {"model": "m", "data": "d"}
        return evaluate_checkpoint(Checkpoint.open(folder), tmp_path / "sequences", ComputeSettings(**settings), names)

    return run


def test_a_budget_gives_smaller_batches_and_the_same_result(evaluate):
    free = evaluate()
    held = evaluate(device_memory=free.planned_bytes / 2 / GIB)
    assert held.planned_bytes <= free.planned_bytes / 2
    assert (held.super_batch, held.micro_batch, held.chunk) != (free.super_batch, free.micro_batch, free.chunk)
    assert held.loss == pytest.approx(free.loss, rel=1e-6)
    assert held.sequence_sums.correct == free.sequence_sums.correct
    assert free.out_of_memory == held.out_of_memory == []


def test_a_budget_that_nothing_fits_is_refused(evaluate):
    with pytest.raises(UserError, match="device_memory allows"):
        evaluate(device_memory=1e-6)


def fail_above(monkeypatch, micro_batch: int, error: Exception) -> None:
    """Let the second block of every walk fail while more than `micro_batch` sequences go through it together."""
    run_in_parts, calls = streaming.run_in_parts, []

    def run(block, rules, in_place, parts, args, kwargs):
        if parts[0][1] > micro_batch and not isinstance(args[0], FakeTensor):  # planning does not run out of memory
            calls.append(block)
            if len(calls) % 2 == 0:
                raise error
        return run_in_parts(block, rules, in_place, parts, args, kwargs)

    monkeypatch.setattr(streaming, "run_in_parts", run)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")],
)
def test_running_out_of_memory_halves_and_goes_on(evaluate, monkeypatch, error):
    expected = evaluate()
    fail_above(monkeypatch, 2, error)
    metrics = evaluate()
    assert expected.micro_batch == 8
    assert (metrics.super_batch, metrics.micro_batch, metrics.chunk) == (8, 2, expected.chunk // 4)
    first, second, last = (f"super_batch 8, micro_batch {m}, chunk {c}" for m, c in ((8, 128), (4, 64), (2, 32)))
    went_on = "ran out of memory with {}; went on with {}".format
    assert metrics.out_of_memory == [went_on(first, second), went_on(second, last)]
    assert metrics.loss == pytest.approx(expected.loss, rel=1e-6)
    assert replace(metrics.sequence_sums, loss_sum=[]) == replace(expected.sequence_sums, loss_sum=[])


def test_super_batches_shrink_last_and_then_it_is_over(evaluate, monkeypatch):
    fail_above(monkeypatch, 0, torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(
        UserError, match="ran out of memory with super_batch 1, micro_batch 1, chunk 1, the smallest possible; use"
    ):
        evaluate()


def test_other_errors_are_not_taken_for_a_lack_of_memory(evaluate, monkeypatch):
    fail_above(monkeypatch, 2, RuntimeError("something else"))
    with pytest.raises(RuntimeError, match="something else"):
        evaluate()


def test_metrics_hold_planned_beside_measured(evaluate):
    metrics = evaluate()
    assert metrics.planned_bytes == sum(metrics.planned_parts.values())
    assert metrics.planned_bytes > 0
    assert metrics.measured_bytes >= 0
    assert metrics.peak_host_private_bytes <= metrics.peak_host_bytes
    assert f"{metrics.planned_bytes / 2**20:,.0f} MiB planned" in str(metrics)
