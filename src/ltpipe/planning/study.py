"""The plan of a study: what each stage will need, from the configuration alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil

import torch

from ltpipe.checkpoints.manifest import Manifest
from ltpipe.checkpoints.prunable import Selection
from ltpipe.evaluation.plan import BatchSizes, EvaluationPlanner
from ltpipe.planning.architecture import architecture, foreseen
from ltpipe.pruning.build import packing_bytes
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.memory import GIB, private_host_bytes
from ltpipe.runtime.simulation import Peak
from ltpipe.runtime.sources import Source
from ltpipe.workflow import grid
from ltpipe.workflow.config import Config

UNKNOWN_COUNT = 1024
"""Sequences to plan for where the configuration takes all that a text gives."""


@dataclass(frozen=True)
class StagePlan:
    """What one stage takes for one model, and for one text where it reads one.

    Attributes:
        stage, model, data: which.
        jobs: how many of them the study has.
        sizes: batch sizes of an evaluation.
        device: peak of tensors on the device, bytes by kind; nothing for stages that use none.
        host: private main memory of the process at its peak, bytes; pages of mapped files come on top, but only as
            far as there is room.
        disk: bytes of all that the jobs write.
        problem: why it cannot run; empty if it can.
    """

    stage: str
    model: str
    data: str | None
    jobs: int
    device: Peak
    host: int
    disk: int
    sizes: BatchSizes | None = None
    problem: str = ""


def plan_study(config: Config, device_memory: float | None = None) -> list[StagePlan]:
    """Plan every stage of a study.

    Args:
        config: checked, with all defaults.
        device_memory: GiB of the card to plan for; None takes the configuration's, without limit if it is `auto`.

    Raises:
        UserError: the shapes of a model are not known, or nothing of it is prunable.
    """
    return [stage for name in sorted(config["models"]) for stage in _plan_model(config, name, device_memory)]


def fits(plan: Sequence[StagePlan]) -> bool:
    """Whether every stage can run."""
    return not any(stage.problem for stage in plan)


def _plan_model(config: Config, name: str, device_memory: float | None) -> Iterator[StagePlan]:
    model, evaluate = config["models"][name], config["evaluate"]
    source = Source(model["source"], f"models.{name}.source")
    shapes = architecture(source)
    kept = _kept_dtype(model["dtype"], shapes.dtype, source)
    _, manifest = foreseen(shapes, kept)
    base = private_host_bytes()  # what Python and the libraries take, which this process has loaded too
    prunable = Selection(**model["prunable"]).names(manifest)
    tickets = [ticket for ticket in grid.tickets(config) if ticket.model == name]
    masks = {ticket.named(grid.MASK) for ticket in tickets}
    histograms = {ticket.named(grid.HISTOGRAM) for ticket in tickets}
    mask_bytes = sum(ceil(manifest.tensors[tensor].size / 8) for tensor in prunable)
    bits = 15 if kept in (torch.bfloat16, torch.float16) else 31
    texts = grid.evaluated_texts(config)
    count = UNKNOWN_COUNT if evaluate["num_sequences"] == "all" else evaluate["num_sequences"]
    length = evaluate["sequence_length"]

    yield StagePlan("checkpoint", name, None, 1, Peak(), base + manifest.nbytes, manifest.nbytes)
    for text in texts:
        yield StagePlan("sequences", name, text, 1, Peak(), base, 4 * count * length)
    packing = base + packing_bytes(bits)
    counted = len(histograms) * _histogram_bytes(bits, len(prunable))
    yield StagePlan("histogram", name, None, len(histograms), Peak(), packing, counted)
    yield StagePlan("mask", name, None, len(masks), Peak(), packing, mask_bytes * len(masks))

    dtype = kept if evaluate["precision"] == "auto" else getattr(torch, evaluate["precision"])
    accelerator, streamed = evaluate["device"] != "cpu", evaluate["execution"] == "streamed"
    skeleton, _ = foreseen(shapes, dtype)
    planner = EvaluationPlanner(skeleton, manifest, prunable, dtype, accelerator, streamed)
    micro_batch = 0 if evaluate["micro_batch"] == "auto" else evaluate["micro_batch"]
    wanted = BatchSizes.generous(count, length, micro_batch)
    allowed = device_memory or (float("inf") if evaluate["device_memory"] == "auto" else evaluate["device_memory"])
    chosen: BatchSizes | None = None
    problem = ""
    try:
        chosen, peak = planner.fit(wanted, length, allowed * GIB)
    except UserError as error:
        problem, peak = str(error), planner.peak(BatchSizes(1, 1, 1), length)
    host = base + (_in_transit(manifest) if accelerator else peak.total)
    for text in texts:
        jobs = 1 + sum(ticket.data == text for ticket in tickets)
        yield StagePlan("evaluation", name, text, jobs, peak, host, 0, chosen, problem)


def _kept_dtype(wanted: str, stored: torch.dtype | None, source: Source) -> torch.dtype:
    """The dtype that the load stage keeps a model in."""
    if wanted != "auto":
        return getattr(torch, wanted)
    quantised = not source.is_hub and source.path.is_file()
    return torch.float32 if quantised or stored is None else stored


def _in_transit(manifest: Manifest) -> int:
    """Pinned copies of what is on its way to an accelerator: two blocks, or the largest tensor outside them."""
    blocks: dict[str, int] = {}
    outside = [0]
    for name, entry in manifest.tensors.items():
        if manifest.in_blocks(name):
            block = name.removeprefix(manifest.blocks + ".").partition(".")[0]
            blocks[block] = blocks.get(block, 0) + entry.nbytes
        else:
            outside.append(entry.nbytes)
    return max(2 * max(blocks.values()), max(outside))


def _histogram_bytes(bits: int, tensors: int) -> int:
    """At most: every bin of every tensor occupied, 2 bytes for the bin and 8 for its count."""
    return tensors * 10 * 2 ** min(bits, 16)
