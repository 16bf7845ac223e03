"""Tickets that share a pass: the same results as alone, in the plan's memory, and each evaluated once."""

import json
import os
import runpy
import subprocess
import sys
import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from allocations import allocated_peak
from tiny import ARCHITECTURES, some_quick

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.filenames import TOKENIZER, WEIGHTS
from ltpipe.checkpoints.prunable import Selection
from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.data.sequences import TokenSequences
from ltpipe.evaluation.agreement import Recorder
from ltpipe.evaluation.computing import ComputeSettings
from ltpipe.evaluation.evaluate import evaluate_checkpoint, evaluate_tickets
from ltpipe.evaluation.loss import walk
from ltpipe.evaluation.metrics import Metrics
from ltpipe.evaluation.passes import PassSettings, Queued
from ltpipe.evaluation.plan import BatchSizes, EvaluationPlanner
from ltpipe.pruning.apply import as_torch, copied_once, fetch_from
from ltpipe.pruning.build import make_mask
from ltpipe.pruning.histogram import make_histogram
from ltpipe.pruning.masks import read_mask
from ltpipe.runtime.errors import DamagedFileError
from ltpipe.runtime.fake_device import ByteCounter, fake_accelerator
from ltpipe.runtime.files import sha256_of
from ltpipe.runtime.memory import GIB
from ltpipe.streaming.model import CausalModel, why_alone
from ltpipe.streaming.skeleton import build_skeleton

CPU = torch.device("cpu")
NAMES = {"model": "m", "data": "d"}
SPARSITIES = ("0.8", "0.2", "0.5")
"""Not in order: a mask must not be seen to work because it prunes more than the one before."""
ALONE = {"opt": "multiplies matrices outside the blocks"}
"""Architectures whose tickets cannot share a pass, and why: here OPT projects its embeddings."""
SCRIPT = Path(__file__).parents[2] / "scripts/evaluate.py"


def made_from(folder: Path, place: Path, selection: Selection = Selection()) -> Path:  # noqa: B008
    """Sequences, masks, the dense model's metrics and its top tokens, made from a checkpoint."""
    checkpoint = Checkpoint.open(folder)
    ids = np.random.default_rng(0).integers(3, 90, (5, 12), dtype=np.int32)
    TokenSequences(ids, 5, 1, sha256_of(folder / TOKENIZER)).write(place / "sequences")
    make_histogram(checkpoint, "magnitude", None, selection).write(place / "histogram")
    for sparsity in SPARSITIES:
        (place / "masks/c/s/seed-none").mkdir(parents=True, exist_ok=True)
        make_mask(checkpoint, place / "histogram", "layer", sparsity, mask(place, sparsity))
    dense = evaluate_checkpoint(
        checkpoint, place / "sequences", ComputeSettings(), NAMES, top_tokens=place / "top", top_k=4
    )
    dense.write(place / "dense.json")
    return place


def mask(place: Path, sparsity: str) -> Path:
    return place / f"masks/c/s/seed-none/{sparsity}.safetensors"


def together(folder: Path, place: Path, settings: ComputeSettings) -> list[Metrics | None]:
    tickets = [Queued(mask(place, sparsity), Path(), Path(), None) for sparsity in SPARSITIES]
    return evaluate_tickets(
        Checkpoint.open(folder), place / "sequences", settings, NAMES, tickets, place / "dense.json",
        top_tokens=place / "top", top_k=4,
    )  # fmt: skip


def alone(folder: Path, place: Path, sparsity: str, settings: ComputeSettings) -> Metrics:
    return evaluate_checkpoint(
        Checkpoint.open(folder), place / "sequences", settings, NAMES, mask(place, sparsity), place / "dense.json",
        top_tokens=place / "top", top_k=4,
    )  # fmt: skip


def result(metrics: Metrics | None) -> dict[str, Any]:
    """Everything but what the run took."""
    assert metrics is not None
    taken = ("seconds", "tickets", "provenance")
    kept = {
        name: value
        for name, value in asdict(metrics).items()
        if name not in taken and "bytes" not in name and name != "planned_parts"
    }
    return kept | {"inputs": metrics.provenance["inputs"]}


@pytest.mark.parametrize("micro_batch", [2, 5])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", some_quick(("llama", "opt", "mixtral")))
def test_the_results_are_those_of_each_alone_to_the_bit(
    architecture, precision, micro_batch, canonical_folder, tmp_path
):
    folder, settings = canonical_folder(architecture), ComputeSettings(precision=precision, micro_batch=micro_batch)
    place = made_from(folder, tmp_path)
    found = together(folder, place, settings)
    assert [metrics.tickets for metrics in found] == ([1] if architecture in ALONE else [3, 3, 3])
    for metrics, sparsity in zip(found, SPARSITIES, strict=False):
        assert result(metrics) == result(alone(folder, place, sparsity, settings))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_who_can_share_a_pass(architecture, canonical_folder):
    checkpoint = Checkpoint.open(canonical_folder(architecture))
    reason = why_alone(build_skeleton(checkpoint, torch.float32), checkpoint.manifest)
    assert ALONE.get(architecture, "") in reason
    assert bool(reason) == (architecture in ALONE)


def test_masks_outside_the_blocks_are_evaluated_alone(canonical_folder, tmp_path, caplog):
    folder = canonical_folder("llama")
    place = made_from(folder, tmp_path, Selection(preset="all-weights"))
    (metrics,) = together(folder, place, ComputeSettings())
    assert result(metrics) == result(alone(folder, place, SPARSITIES[0], ComputeSettings()))
    assert "which is outside the blocks" in caplog.text


@pytest.mark.parametrize("execution", ["in-memory", "streamed"])
def test_a_model_in_memory_is_evaluated_alone(execution, canonical_folder, tmp_path, caplog):
    folder = canonical_folder("llama")
    found = together(folder, made_from(folder, tmp_path), ComputeSettings(execution=execution))
    assert len(found) == (1 if execution == "in-memory" else 3)
    assert ("all weights stay on the device" in caplog.text) == (execution == "in-memory")


OBSERVE = partial(Recorder, 8 * 63, 4)


def planner(folder: Path, tickets: int, accelerator: bool = False, **options: Any) -> EvaluationPlanner:
    checkpoint = Checkpoint.open(folder)
    names = Selection().names(checkpoint.manifest)
    skeleton = build_skeleton(checkpoint, torch.float32)
    return EvaluationPlanner(
        skeleton, checkpoint.manifest, names, torch.float32, accelerator, tickets=tickets, **options
    )


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mixtral"])
def test_planned_bytes_are_those_that_a_real_pass_allocates(architecture, canonical_folder, tmp_path):
    folder = canonical_folder(architecture)
    place, checkpoint = made_from(folder, tmp_path), Checkpoint.open(folder)
    fetches = [
        fetch_from(checkpoint.weights, read_mask(mask(place, sparsity)), CPU, torch.float32) for sparsity in SPARSITIES
    ]
    ids = torch.randint(3, 90, (8, 64), generator=torch.Generator().manual_seed(0))
    plan, skeleton = planner(folder, 3, observe=OBSERVE), build_skeleton(checkpoint, torch.float32)
    model = CausalModel(skeleton, checkpoint.manifest, fetches[0], CPU, True, further=fetches[1:])
    model.divide(64)
    for sizes in (BatchSizes(8, 8, 16), BatchSizes(8, 3, 100)):

        def run(sizes: BatchSizes = sizes) -> None:
            walk(model, ids, sizes.micro_batch, sizes.chunk, [OBSERVE() for _ in range(3)])

        planned = plan.peak(sizes, 64).total
        with ByteCounter(CPU) as counter:
            run()
        assert planned == counter.peak.total + 4, "a fake run makes the tensors of a real one"
        measured, left = allocated_peak(run)
        assert planned == pytest.approx(measured, rel=0.05)
        assert left == 0


def test_memory_limits_how_many_share_a_pass_but_no_batch(canonical_folder, tmp_path):
    folder = canonical_folder("llama")
    place = made_from(folder, tmp_path)
    sizes = BatchSizes(5, 5, 128)
    peaks = [planner(folder, tickets).peak(sizes, 12).total for tickets in (1, 2, 3)]
    assert peaks[0] < peaks[1] < peaks[2]
    observed = 4 * 55 * 20  # what the comparison with the dense model takes at most
    limited = ComputeSettings(device_memory=(peaks[0] + peaks[1]) / 2 / GIB + observed / GIB)
    (metrics,) = together(folder, place, limited)
    assert (metrics.super_batch, metrics.micro_batch) == (5, 5)
    assert result(metrics) == result(alone(folder, place, SPARSITIES[0], ComputeSettings()))


def test_an_accelerator_gets_each_block_once(canonical_folder, tmp_path):
    """A dense copy stays there until the last ticket has its own; only the first ticket fetches what is outside."""
    folder = canonical_folder("llama")
    place, checkpoint = made_from(folder, tmp_path), Checkpoint.open(folder)
    weights, masks = TensorFile(folder / WEIGHTS), [read_mask(mask(place, sparsity)) for sparsity in SPARSITIES]
    fetched: list[str] = []

    def dense(name: str) -> torch.Tensor:
        fetched.append(name)
        return as_torch(weights.array(name), "F32").clone()

    def bits_of(one):
        return lambda name: as_torch(one.bits[name], "U8") if name in one.bits else None

    in_blocks = checkpoint.manifest.in_blocks
    fetches = copied_once(dense, [bits_of(one) for one in masks], in_blocks)
    inside = [name for name in weights.specs if in_blocks(name)]
    for _ in range(2):
        for fetch, one in zip(fetches, masks, strict=True):
            plain = fetch_from(weights, one, CPU, torch.float32)
            assert all(torch.equal(fetch(name), plain(name)) for name in inside)
    assert sorted(fetched) == sorted(2 * inside)
    assert torch.equal(fetches[0]("lm_head.weight"), as_torch(weights.array("lm_head.weight"), "F32"))
    # The plan of an accelerator has that copy too.
    one, three = (planner(folder, tickets, accelerator=True).peak(BatchSizes(5, 5, 128), 12) for tickets in (1, 3))
    assert three.total > one.total
    assert fake_accelerator().type != "cpu"


# --- jobs


def job(folder: Path, place: Path, sparsity: str, most: int = 3, code: str = "one", **settings: Any) -> None:
    """Run a ticket's script, in whose queue are all three."""
    queue = json.dumps([[None, {"c/s/seed-none": SPARSITIES}]])
    runpy.run_path(str(SCRIPT))["main"](
        checkpoint=folder, sequences=place / "sequences", output=metrics_of(place, sparsity), model="m", data="d",
        mask=mask(place, sparsity), baseline=place / "dense.json", top_tokens=place / "top", top_k=4, code=code,
        together=PassSettings(most, queue, place / "ahead"), settings=ComputeSettings(device="cpu", **settings),
    )  # fmt: skip


def metrics_of(place: Path, sparsity: str) -> Path:
    return place / f"tickets/c/s/seed-none/{sparsity}.json"


def ahead(place: Path) -> set[str]:
    return {path.stem for path in (place / "ahead").rglob("*.json")}


@pytest.fixture
def study(canonical_folder, tmp_path) -> tuple[Path, Path]:
    return canonical_folder("llama"), made_from(canonical_folder("llama"), tmp_path)


def created(place: Path, sparsity: str) -> tuple[int, float]:
    metrics = Metrics.read(metrics_of(place, sparsity))
    return metrics.tickets, metrics.seconds


def test_the_first_job_evaluates_all_and_each_writes_its_own(study):
    job(*study, "0.5")
    _, place = study
    assert ahead(place) == {"0.2", "0.8"}
    assert not metrics_of(place, "0.2").exists()
    for sparsity in ("0.2", "0.8"):
        job(*study, sparsity)
        assert created(place, sparsity) == created(place, "0.5"), "from the same pass"
        expected = alone(*study, sparsity, ComputeSettings(device="cpu"))
        assert result(Metrics.read(metrics_of(place, sparsity)))["sequence_sums"] == result(expected)["sequence_sums"]
    assert ahead(place) == set()


def test_what_is_there_is_not_made_again(study):
    _, place = study
    job(*study, "0.2", most=1)
    assert created(place, "0.2")[0] == 1
    before = metrics_of(place, "0.2").read_bytes()
    job(*study, "0.8")
    assert ahead(place) == {"0.5"}
    assert metrics_of(place, "0.2").read_bytes() == before


def make_again(place: Path, folder: Path) -> None:
    time.sleep(0.01)
    make_mask(Checkpoint.open(folder), place / "histogram", "layer", "0.3", mask(place, "0.2"))


CHANGES: dict[str, dict[str, Any]] = {
    "code": {"code": "two"},
    "settings": {"micro_batch": 2},
    "precision": {"precision": "bfloat16"},
}


@pytest.mark.parametrize("change", [*CHANGES, "mask", "baseline"])
def test_what_was_kept_for_another_study_is_not_taken(change, study):
    folder, place = study
    job(folder, place, "0.5")
    assert ahead(place) == {"0.2", "0.8"}
    if change == "mask":
        make_again(place, folder)
    if change == "baseline":
        os.utime(place / "dense.json")
    job(folder, place, "0.2", most=2, **CHANGES.get(change, {}))
    assert created(place, "0.2")[1] != created(place, "0.5")[1]
    metrics = Metrics.read(metrics_of(place, "0.2"))
    assert metrics.provenance["inputs"]["mask"] == sha256_of(mask(place, "0.2"))
    assert metrics.provenance["code"] == CHANGES.get(change, {}).get("code", "one")


def test_a_mask_with_an_old_date_is_not_taken_for_the_old_one(study):
    folder, place = study
    job(folder, place, "0.5")
    stamp = mask(place, "0.2").stat()
    make_again(place, folder)
    os.utime(mask(place, "0.2"), ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    job(folder, place, "0.2")
    inputs = Metrics.read(metrics_of(place, "0.2")).provenance["inputs"]
    assert inputs["mask"] == sha256_of(mask(place, "0.2"))


def test_outdated_metrics_are_made_again_with_the_others(study):
    folder, place = study
    for sparsity in SPARSITIES:
        job(folder, place, sparsity)
    job(folder, place, "0.2", code="two")
    assert ahead(place) == {"0.5", "0.8"}


@pytest.mark.parametrize("most", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_jobs_at_the_same_time_make_no_ticket_twice(study, most):
    folder, place = study
    running = [
        subprocess.Popen(
            [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
             "from pathlib import Path; import test_passes\n"
             f"test_passes.job(Path({str(folder)!r}), Path({str(place)!r}), {sparsity!r}, {most})"],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        for sparsity in SPARSITIES
    ]  # fmt: skip
    assert [process.wait() for process in running] == [0, 0, 0]
    passes = {created(place, sparsity) for sparsity in SPARSITIES}
    assert sum(tickets for tickets, _ in passes) == 3
    assert ahead(place) == set()


def test_losses_that_are_not_finite_stay_with_their_own_job(study, monkeypatch):
    """The job that shared its pass with such a ticket does not fail for it."""
    from ltpipe.evaluation import evaluate

    folder, place = study
    found = evaluate.ticket_losses

    def broken(*arguments: Any) -> list:
        first, second, *others = found(*arguments)
        return [first, replace(second, losses=second.losses * torch.inf), *others]

    monkeypatch.setattr(evaluate, "ticket_losses", broken)
    metrics = together(folder, place, ComputeSettings())
    assert [one is None for one in metrics] == [False, True, False]


@pytest.mark.parametrize("place_of_damage", [200, -1], ids=["header", "bits"])
def test_damage_to_another_mask_is_for_its_own_job(study, place_of_damage, caplog):
    folder, place = study
    damaged = mask(place, "0.2")
    content = bytearray(damaged.read_bytes())
    content[place_of_damage] ^= 1
    damaged.write_bytes(content)
    (metrics,) = together(folder, place, ComputeSettings())
    assert result(metrics) == result(alone(folder, place, SPARSITIES[0], ComputeSettings()))
    assert f"evaluated alone, not with other tickets: {damaged}: damaged" in caplog.text
    with pytest.raises(DamagedFileError):
        alone(folder, place, "0.2", ComputeSettings())


def test_running_out_of_memory_together_goes_on_alone(study, monkeypatch, caplog):
    from ltpipe.evaluation import evaluate

    folder, place = study
    found = evaluate.ticket_losses

    def short(*arguments: Any) -> list:
        if len(arguments[-1]) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return found(*arguments)

    monkeypatch.setattr(evaluate, "ticket_losses", short)
    (metrics,) = together(folder, place, ComputeSettings())
    assert result(metrics) == result(alone(folder, place, SPARSITIES[0], ComputeSettings()))
    assert "evaluated alone: 3 tickets ran out of memory" in caplog.text
