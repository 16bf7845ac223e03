"""The plan of an evaluation: equal to what a real run allocates, and kept to."""

import pytest
import torch
from allocations import allocated_peak
from tiny import some_quick

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.filenames import MANIFEST, WEIGHTS
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.checkpoints.prunable import Selection
from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.evaluation.loss import walk
from ltpipe.evaluation.plan import LOGITS, BatchSizes, EvaluationPlanner
from ltpipe.pruning.apply import fetch_from
from ltpipe.pruning.build import make_mask
from ltpipe.pruning.histogram import make_histogram
from ltpipe.pruning.masks import read_mask
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.fake_device import ByteCounter, fake, fake_accelerator
from ltpipe.streaming.model import CausalModel
from ltpipe.streaming.skeleton import build_skeleton

CPU = torch.device("cpu")
LENGTH = 64
SCRATCH = 2**18  # what the CPU's bfloat16 kernels take for themselves, whatever the size of the model


def planner_and_model(folder, dtype, mask=None, streamed=True):
    manifest = Manifest.read(folder / MANIFEST)
    bits = mask.bits if mask else ()
    planner = EvaluationPlanner(build_skeleton(Checkpoint.open(folder), dtype), manifest, bits, dtype, False, streamed)
    fetch = fetch_from(TensorFile(folder / WEIGHTS), mask, CPU, dtype)
    return planner, CausalModel(build_skeleton(Checkpoint.open(folder), dtype), manifest, fetch, CPU, streamed)


@pytest.mark.parametrize("masked", [False, True], ids=["dense", "masked"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("architecture", some_quick(("llama", "gpt2", "mixtral")))
def test_planned_bytes_are_those_that_a_real_run_allocates(architecture, dtype, masked, canonical_folder, tmp_path):
    folder = canonical_folder(architecture)
    mask = None
    if masked:
        make_histogram(Checkpoint.open(folder), "magnitude", None, Selection()).write(tmp_path / "histogram")
        make_mask(Checkpoint.open(folder), tmp_path / "histogram", "global", "0.5", tmp_path / "mask")
        mask = read_mask(tmp_path / "mask")
    input_ids = torch.randint(3, 90, (8, LENGTH), generator=torch.Generator().manual_seed(0))
    for sizes in (BatchSizes(8, 8, 16), BatchSizes(8, 3, 100)):
        planner, model = planner_and_model(folder, dtype, mask)
        model.divide(LENGTH)

        def run(model=model, sizes=sizes):
            walk(model, input_ids, sizes.micro_batch, sizes.chunk)

        planned = planner.peak(sizes, LENGTH).total
        with ByteCounter(CPU) as counter:
            run()
        # The plan has the model too: the one number that stands in for all weights.
        assert planned == counter.peak.total + dtype.itemsize, "a fake run makes the tensors of a real one"
        measured, left = allocated_peak(run)
        assert planned == pytest.approx(measured, rel=0.05, abs=0 if dtype == torch.float32 else SCRATCH)
        assert left == 0


@pytest.mark.parametrize("limit", [0.9, 0.5, 0.3])
def test_batch_sizes_are_made_to_fit(limit, canonical_folder):
    planner, _ = planner_and_model(canonical_folder("llama"), torch.float32)
    wanted = BatchSizes(16, 16, 512)
    allowed = limit * planner.peak(wanted, LENGTH).total
    sizes, peak = planner.fit(wanted, LENGTH, allowed)
    assert peak.total <= allowed
    assert peak == planner.peak(sizes, LENGTH)
    assert sizes != wanted
    assert planner.fit(wanted, LENGTH, 1e12) == (wanted, planner.peak(wanted, LENGTH))


def test_what_cannot_fit_is_refused_with_the_need(canonical_folder):
    planner, _ = planner_and_model(canonical_folder("llama"), torch.float32)
    with pytest.raises(
        UserError, match=r"needs 6\.9\d+e-05 GiB at the smallest .*; device_memory allows 9\.3\d+e-07 GiB"
    ):
        planner.fit(BatchSizes(16, 16, 512), LENGTH, 1000)


def test_an_accelerator_holds_weights_and_the_next_block_too(canonical_folder):
    folder = canonical_folder("llama")
    manifest = Manifest.read(folder / MANIFEST)
    sizes = BatchSizes(2, 1, 1)
    here, there = (
        EvaluationPlanner(
            build_skeleton(Checkpoint.open(folder), torch.float32), manifest, (), torch.float32, accelerator
        ).peak(sizes, 4)
        for accelerator in (False, True)
    )
    block = sum(4 * entry.size for name, entry in manifest.tensors.items() if ".layers.0." in name)
    assert "weights of blocks" not in here.parts, "on the CPU they are pages of the mapped file"
    assert there.parts["weights of blocks"] == 2 * block


def test_a_model_in_memory_is_planned_with_all_its_weights(canonical_folder):
    folder = canonical_folder("qwen2")
    manifest = Manifest.read(folder / MANIFEST)
    skeleton = build_skeleton(Checkpoint.open(folder), torch.float32)
    planner = EvaluationPlanner(skeleton, manifest, (), torch.float32, accelerator=True, streamed=False)
    parts = planner.peak(BatchSizes(2, 1, 4), 8).parts
    weights = sum(size for label, size in parts.items() if label.startswith("weights"))
    assert weights == 4 * sum(entry.size for entry in manifest.tensors.values())


def test_the_head_is_counted_as_logits(canonical_folder):
    planner, _ = planner_and_model(canonical_folder("llama"), torch.bfloat16)
    assert LOGITS in planner.peak(BatchSizes(2, 1, 128), LENGTH).parts


def test_counting_sees_views_leaks_and_releases():
    device = fake_accelerator()
    counter = ByteCounter(device)
    with fake():
        before = torch.empty(1000, device=device)
        with counter:
            kept = torch.empty(100, device=device)
            view = kept[10:20].reshape(2, 5)
            before.add_(1)
            temporary = kept + before[:100]
            del temporary, kept
            assert counter.held["other"] == 400, "the view keeps its storage alive"
            del view
            assert counter.held["other"] == 0
    assert counter.peak.total == 800
