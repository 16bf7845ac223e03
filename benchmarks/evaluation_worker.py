"""One way of evaluating a model on fixed sequences, in its own process.

The process reports when it is ready, with all imports done. It is sent `{"wish": "set up"}` before each
`{"wish": "evaluate", "micro_batch": …, "chunk": …}`, which it answers with the time in seconds and the loss.
"""

import json
import sys
import time
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
import tyro
from transformers import AutoModelForCausalLM

from benchmarks.processes import answer, private_stdout
from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.filenames import MANIFEST, WEIGHTS
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.data.sequences import TokenSequences
from ltpipe.evaluation.loss import token_losses
from ltpipe.pruning.apply import fetch_from
from ltpipe.streaming.model import CausalModel
from ltpipe.streaming.skeleton import build_skeleton

_CPU = torch.device("cpu")


class Contestant(Protocol):
    """A way of evaluating."""

    def set_up(self) -> None:
        """Do the work that is not measured."""
        ...

    def evaluate(self, input_ids: torch.Tensor, micro_batch: int, chunk: int) -> float:
        """Return the mean loss, nats per token."""
        ...


class Plain:
    """The transformers model with its own loss; weights are loaded during set-up."""

    def __init__(self, checkpoint: Path, dtype: torch.dtype) -> None:
        self._checkpoint, self._dtype = checkpoint, dtype
        self._model: torch.nn.Module | None = None

    def set_up(self) -> None:
        """Load the model, once."""
        if self._model is None:
            self._model = AutoModelForCausalLM.from_pretrained(self._checkpoint, dtype=self._dtype).eval()

    @torch.inference_mode()
    def evaluate(self, input_ids: torch.Tensor, micro_batch: int, chunk: int) -> float:  # noqa: ARG002
        """Run `micro_batch` sequences at a time through the model."""
        parts = input_ids.split(micro_batch)
        losses = [self._model(input_ids=part, labels=part, use_cache=False).loss.item() * len(part) for part in parts]
        return sum(losses) / len(input_ids)


class Streamed:
    """ltpipe with one block of weights at a time. Everything except the empty skeleton counts as evaluation."""

    def __init__(self, checkpoint: Path, dtype: torch.dtype) -> None:
        self._checkpoint, self._dtype = checkpoint, dtype
        self._manifest = Manifest.read(checkpoint / MANIFEST)
        self._skeleton: torch.nn.Module | None = None

    def set_up(self) -> None:
        """Build a new skeleton."""
        self._skeleton = build_skeleton(Checkpoint.open(self._checkpoint), self._dtype)

    def evaluate(self, input_ids: torch.Tensor, micro_batch: int, chunk: int) -> float:
        """Map the checkpoint and evaluate it in a streamed walk."""
        skeleton, self._skeleton = self._skeleton, None
        fetch = fetch_from(TensorFile(self._checkpoint / WEIGHTS), None, _CPU, self._dtype)
        model = CausalModel(skeleton, self._manifest, fetch, _CPU, streamed=True)
        loss = token_losses(model, input_ids, micro_batch, chunk).loss()
        if not model.streamed:
            raise RuntimeError(f"the model was not streamed: {model.not_streamed_because}")
        return loss


class InMemory:
    """ltpipe with the whole model in memory, loaded during set-up."""

    def __init__(self, checkpoint: Path, dtype: torch.dtype) -> None:
        self._checkpoint, self._dtype = checkpoint, dtype
        self._model: CausalModel | None = None

    def set_up(self) -> None:
        """Load the model, once; the first tokens bring it into memory."""
        if self._model is None:
            manifest = Manifest.read(self._checkpoint / MANIFEST)
            fetch = fetch_from(TensorFile(self._checkpoint / WEIGHTS), None, _CPU, self._dtype)
            skeleton = build_skeleton(Checkpoint.open(self._checkpoint), self._dtype)
            self._model = CausalModel(skeleton, manifest, fetch, _CPU, streamed=False)
            self._model.hidden_states(torch.zeros((1, 2), dtype=torch.long), 1)

    def evaluate(self, input_ids: torch.Tensor, micro_batch: int, chunk: int) -> float:
        """Run micro-batches through the model, then compute losses in chunks."""
        return token_losses(self._model, input_ids, micro_batch, chunk).loss()


def main(
    method: Literal["plain", "streamed", "in-memory"],
    checkpoint: Path,
    sequences: Path,
    dtype: str,
    count: int,
    threads: int,
) -> None:
    """Serve evaluations.

    Args:
        method: how to evaluate.
        checkpoint: canonical checkpoint folder.
        sequences: file of token sequences.
        dtype: dtype to compute in.
        count: number of sequences to evaluate on.
        threads: CPU threads.
    """
    answers = private_stdout()
    torch.set_num_threads(threads)
    input_ids = torch.from_numpy(TokenSequences.read(sequences).input_ids[:count].astype(np.int64))
    precision = getattr(torch, dtype)
    build_skeleton(
        Checkpoint.open(checkpoint), precision
    )  # imports the architecture: every contestant has the same imports
    kind = {"plain": Plain, "streamed": Streamed, "in-memory": InMemory}[method]
    contestant: Contestant = kind(checkpoint, precision)
    answer(answers, ready=True)
    for line in sys.stdin:
        command = json.loads(line)
        start = time.perf_counter()
        if command["wish"] == "set up":
            contestant.set_up()
            result = {}
        else:
            result = {"loss": contestant.evaluate(input_ids, command["micro_batch"], command["chunk"])}
        answer(answers, seconds=time.perf_counter() - start, **result)


if __name__ == "__main__":
    tyro.cli(main)
