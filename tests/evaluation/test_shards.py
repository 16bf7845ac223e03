"""Evaluations and scores with `auto-shard`, on devices that are made up but compute."""

from dataclasses import replace

import pytest
import torch
from logical import logical_devices

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.filenames import MANIFEST
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.checkpoints.prunable import Selection
from ltpipe.evaluation import computing, evaluate
from ltpipe.evaluation.computing import ComputeSettings, Computing
from ltpipe.evaluation.evaluate import evaluate_checkpoint
from ltpipe.evaluation.plan import KEPT, BatchSizes, EvaluationPlanner
from ltpipe.runtime import device
from ltpipe.runtime.device import devices_named
from ltpipe.runtime.errors import UserError
from ltpipe.scoring.score import score_checkpoint
from ltpipe.streaming.shards import Spread
from ltpipe.streaming.skeleton import build_skeleton

NAMES = {"model": "tiny", "data": "words"}
SETTINGS = ComputeSettings(device="auto-shard", device_memory=1.0, threads=1)


@pytest.fixture
def on(monkeypatch):
    """Function that lets stages compute on so many devices, and gives their context."""

    def devices(count):
        context = logical_devices(count)
        monkeypatch.setattr(
            computing, "devices_named", lambda _: tuple(torch.device("fakegpu", i) for i in range(count))
        )
        monkeypatch.setattr(evaluate, "device_peak", lambda _: None)
        return context

    return devices


def test_metrics_are_those_of_one_device(on, canonical_folder, calibration):
    folder, found = canonical_folder("llama"), []
    for count in (1, 2):
        with on(count):
            found.append(evaluate_checkpoint(Checkpoint.open(folder), calibration("llama"), SETTINGS, NAMES))
    one, two = found
    assert (one.execution, two.execution) == ("streamed", "sharded")
    assert two.device == "fakegpu:0, fakegpu:1"
    assert two.planned_parts[KEPT] == max(Spread.of(Manifest.read(folder / MANIFEST), torch.float32, 2).nbytes)
    assert (one.sequence_sums, one.loss, one.accuracy) == (two.sequence_sums, two.loss, two.accuracy)


@pytest.mark.parametrize("criterion", ["snip", "wanda"])
def test_scores_are_those_of_one_device(criterion, on, canonical_folder, calibration, tmp_path):
    for count in (1, 2):
        with on(count):
            output = tmp_path / str(count)
            score_checkpoint(
                Checkpoint.open(canonical_folder("llama")),
                criterion,
                output,
                Selection(),
                calibration("llama"),
                SETTINGS,
            )
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_what_a_device_keeps_is_planned(canonical_folder):
    """Batches become smaller for it, and too little memory is said before a weight is read."""
    folder = canonical_folder("llama")
    manifest, kept = Manifest.read(folder / MANIFEST), 10**6
    plans = [
        EvaluationPlanner(
            build_skeleton(Checkpoint.open(folder), torch.float32), manifest, (), torch.float32, True, kept=bytes_
        )
        for bytes_ in (0, kept)
    ]
    sizes = BatchSizes(7, 7, 128)
    without, with_ = (plan.peak(sizes, 24) for plan in plans)
    assert with_.total == without.total + kept
    assert with_.parts == {**without.parts, KEPT: kept}
    assert plans[0].fit(sizes, 24, without.total)[0] == sizes
    with pytest.raises(UserError, match=r"an evaluation of sequences of 24 tokens needs"):
        plans[1].fit(sizes, 24, kept)


@pytest.mark.parametrize("count", [0, 1])
def test_several_devices_are_needed(count, monkeypatch):
    monkeypatch.setattr(device, "_accelerator", lambda: torch.device("cuda") if count else None)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: count)
    with pytest.raises(
        UserError, match=rf"auto-shard spreads a model over several devices but sees {count}; use auto, or"
    ):
        devices_named("auto-shard")
    assert len(devices_named("cpu")) == 1


def test_all_devices_that_are_seen(monkeypatch):
    monkeypatch.setattr(device, "_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 3)
    assert devices_named("auto-shard") == tuple(torch.device("cuda", index) for index in range(3))


def test_the_device_with_least_room_decides(monkeypatch, canonical_folder):
    devices = (torch.device("cuda", 0), torch.device("cuda", 1))
    monkeypatch.setattr(computing, "devices_named", lambda _: devices)
    monkeypatch.setattr(computing, "free_bytes", lambda device: 1000 - 500 * device.index)
    settings = replace(SETTINGS, device_memory=0.0)
    assert Computing.of(settings, Checkpoint.open(canonical_folder("llama"))).limit == 450
    with pytest.raises(UserError, match=r"^execution: in-memory is for one device"):
        Computing.of(replace(settings, execution="in-memory"), Checkpoint.open(canonical_folder("llama")))
