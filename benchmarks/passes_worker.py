"""Evaluate tickets of a synthetic Qwen2.5-1.5B in one pass, with limited private memory; print the results as JSON."""

import hashlib
import os
import resource
import time
from functools import partial
from pathlib import Path

import torch
import tyro

from benchmarks.processes import MB, answer, private_stdout
from ltpipe.checkpoints.filenames import MANIFEST, WEIGHTS
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.evaluation.loss import ticket_losses
from ltpipe.evaluation.plan import BatchSizes, EvaluationPlanner, fit_together
from ltpipe.planning.architecture import architecture, foreseen
from ltpipe.pruning.apply import fetches_from
from ltpipe.pruning.masks import read_mask
from ltpipe.runtime.sources import Source
from ltpipe.streaming.model import CausalModel

_CPU = torch.device("cpu")


def main(checkpoint: Path, masks: str, sequences: int, length: int, budget: float, limit: float, threads: int) -> None:
    """Evaluate random tokens.

    Args:
        checkpoint: folder with the weights.
        masks: the tickets' masks, separated by commas.
        sequences: number of sequences.
        length: tokens per sequence.
        budget: memory in MB to choose batch sizes for.
        limit: MB of private memory that the whole process may request (RLIMIT_DATA).
        threads: CPU threads.
    """
    answers = private_stdout()
    torch.set_num_threads(threads)
    resource.setrlimit(resource.RLIMIT_DATA, (int(limit * MB), int(limit * MB)))
    weights = checkpoint / WEIGHTS
    with weights.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    skeleton, _ = foreseen(architecture(Source("hub:Qwen/Qwen2.5-1.5B")), torch.bfloat16)
    manifest = Manifest.read(checkpoint / MANIFEST)
    tickets = [read_mask(Path(mask)) for mask in masks.split(",")]
    planner = partial(EvaluationPlanner, skeleton, manifest, tickets[0].bits, torch.bfloat16, accelerator=False)
    alone = planner()
    sizes, _ = alone.fit(BatchSizes.generous(sequences, length), length, budget * MB)
    together, _ = fit_together(lambda count: planner(tickets=count), len(tickets), sizes, length, budget * MB)
    assert together == len(tickets), "the hidden states of all tickets fit"
    fetch, *further = fetches_from(TensorFile(weights), tickets, _CPU, torch.bfloat16, {}, manifest.in_blocks)
    model = CausalModel(skeleton, manifest, fetch, _CPU, True, alone.division, further=further)
    input_ids = torch.randint(0, 151_000, (sequences, length), generator=torch.Generator().manual_seed(0))
    start, before = time.perf_counter(), _read()
    found = ticket_losses(model, input_ids, sizes.micro_batch, sizes.chunk, sizes.super_batch, [None] * together)
    answer(
        answers,
        seconds=time.perf_counter() - start,
        read=_read() - before,
        losses=[hashlib.sha256(one.losses.numpy().tobytes()).hexdigest() for one in found],
    )


def _read() -> int:
    """Return the bytes that this process has read from storage."""
    lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(lines["read_bytes"])


if __name__ == "__main__":
    tyro.cli(main)
