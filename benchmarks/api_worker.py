"""Calls of the Python API, and a plain forward pass, on one model in its own process."""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
import tyro
from transformers import AutoModelForCausalLM

import ltpipe
from benchmarks.processes import answer, private_stdout
from ltpipe.data.sequences import TokenSequences


def main(checkpoint: Path, sequences: Path, threads: int) -> None:
    """Serve calls on one sequence.

    Args:
        checkpoint: canonical checkpoint folder.
        sequences: file of token sequences.
        threads: CPU threads.
    """
    answers = private_stdout()
    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    ids = torch.from_numpy(TokenSequences.read(sequences).input_ids[:1].astype(np.int64))
    mask, batches = ltpipe.create_magnitude_mask(model, 0.5, preset="linear"), [{"input_ids": ids, "labels": ids}]

    def plain() -> None:
        with torch.inference_mode():
            float(model(input_ids=ids, labels=ids, use_cache=False).loss)

    def masked() -> None:
        with ltpipe.masked(model, mask):
            pass

    calls = {
        "plain": plain,
        "masked": masked,
        "given": lambda: ltpipe.compute_lottery_ticket_quality(model, mask, batches, {"loss": 3.0}),
        "compared": lambda: ltpipe.compute_lottery_ticket_quality(model, mask, batches),
    }
    answer(answers, masked=sum(kept.numel() for kept in mask.values()), tokens=ids.numel())
    for line in sys.stdin:
        call = calls[json.loads(line)["call"]]
        start = time.perf_counter()
        call()
        answer(answers, seconds=time.perf_counter() - start)


if __name__ == "__main__":
    tyro.cli(main)
