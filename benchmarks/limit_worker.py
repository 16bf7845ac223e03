"""Evaluate a synthetic Qwen2.5-1.5B in a process with limited private memory, and print the results as JSON."""

import hashlib
import json
import resource
import time
from pathlib import Path

import torch
import tyro

from benchmarks.processes import MB, answer, private_stdout
from ltpipe.checkpoints.filenames import MANIFEST, WEIGHTS
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.evaluation.loss import token_losses
from ltpipe.evaluation.plan import BatchSizes, EvaluationPlanner
from ltpipe.planning.architecture import architecture, foreseen
from ltpipe.pruning.apply import fetch_from
from ltpipe.runtime.memory import PrivateMemory
from ltpipe.runtime.sources import Source
from ltpipe.streaming.model import CausalModel

_CPU = torch.device("cpu")


def main(checkpoint: Path, sequences: int, length: int, budget: float, limit: float, threads: int) -> None:
    """Evaluate random tokens.

    Args:
        checkpoint: folder with the weights.
        sequences: number of sequences.
        length: tokens per sequence.
        budget: memory in MB to choose batch sizes for.
        limit: MB of private memory that the whole process may request (RLIMIT_DATA); 0 for no limit.
        threads: CPU threads.
    """
    answers = private_stdout()
    torch.set_num_threads(threads)
    if limit:
        resource.setrlimit(resource.RLIMIT_DATA, (int(limit * MB), int(limit * MB)))
    skeleton, _ = foreseen(architecture(Source("hub:Qwen/Qwen2.5-1.5B")), torch.bfloat16)
    manifest = Manifest.read(checkpoint / MANIFEST)
    planner = EvaluationPlanner(skeleton, manifest, (), torch.bfloat16, accelerator=False)
    sizes, planned = planner.fit(BatchSizes.generous(sequences, length), length, budget * MB)
    fetch = fetch_from(TensorFile(checkpoint / WEIGHTS), None, _CPU, torch.bfloat16)
    model = CausalModel(skeleton, manifest, fetch, _CPU, True, planner.division)
    input_ids = torch.randint(0, 151_000, (sequences, length), generator=torch.Generator().manual_seed(0))
    start = time.perf_counter()
    with PrivateMemory() as private:
        losses = token_losses(model, input_ids, sizes.micro_batch, sizes.chunk, sizes.super_batch).losses
    answer(
        answers,
        sizes=str(sizes),
        planned=planned.total,
        grown=private.peak - private.before,
        peak=private.peak,
        seconds=time.perf_counter() - start,
        loss=float(losses.double().mean()),
        digest=hashlib.sha256(json.dumps(losses.tolist()).encode()).hexdigest(),
    )


if __name__ == "__main__":
    tyro.cli(main)
