"""The stage that simulates iterative magnitude pruning: a schedule of one-shot tickets, without training."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.evaluation.computing import ComputeSettings, Computing, backing_off
from ltpipe.evaluation.inputs import read_sequences
from ltpipe.evaluation.loss import TokenLosses, token_losses
from ltpipe.evaluation.plan import BatchSizes, EvaluationPlanner
from ltpipe.evaluation.quality import WINNING_RETENTION, best_ticket, performance_retention
from ltpipe.evaluation.simulated import BASELINE_BATCHES, TICKET_BATCHES, Iteration, Simulation
from ltpipe.pruning.apply import fetch_from
from ltpipe.pruning.build import make_mask
from ltpipe.pruning.histogram import KeyHistogram
from ltpipe.pruning.masks import Mask, read_mask
from ltpipe.pruning.sparsity import exponential_schedule
from ltpipe.runtime.device import device_peak
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.files import sha256_of, temporary_folder
from ltpipe.runtime.memory import PrivateMemory
from ltpipe.runtime.progress import track
from ltpipe.runtime.provenance import provenance
from ltpipe.streaming.model import CausalModel
from ltpipe.streaming.skeleton import build_skeleton, other_dtypes


def simulate_iterative_pruning(
    checkpoint: Checkpoint,
    histogram: Path,
    sequences: Path,
    settings: ComputeSettings,
    target: float,
    rounds: int,
    batch: int,
    names: tuple[str, str],
    ticket: Path,
) -> Simulation:
    """Prune a checkpoint to each sparsity of an exponential schedule, evaluate, and keep the best mask.

    Streamed like any evaluation. Only one mask exists at a time, on disk; every iteration takes the same memory.

    Args:
        checkpoint: the model's checkpoint.
        histogram: histogram of its magnitudes.
        sequences: token sequences made with its tokenizer.
        settings: how to compute.
        target: sparsity of the last iteration, 0 to below 1.
        rounds: number of iterations.
        batch: sequences per batch: the dense model is measured on at most 10 batches, a ticket on the first 5.
        names: names of model and data.
        ticket: file to write the best mask to.

    Raises:
        UserError: the schedule or the batch is not allowed, or a file belongs to another model.
    """
    if batch < 1:
        raise UserError(f"batch: {batch} is not allowed; use 1 or more")
    schedule = exponential_schedule(target, rounds)
    counted = KeyHistogram.read(histogram)
    loaded, digest = read_sequences(sequences, checkpoint)
    input_ids = torch.from_numpy(loaded.input_ids[: BASELINE_BATCHES * batch].astype(np.int64))
    tickets = min(TICKET_BATCHES * batch, len(input_ids))
    walk = _Walk(checkpoint, counted.names, settings, input_ids)

    dense = walk.losses(None, len(input_ids))
    dense_loss = TokenLosses(dense.losses[:tickets], dense.correct[:tickets]).loss()
    iterations: list[Iteration] = []
    for number, sparsity in enumerate(track(schedule, "simulating", "ticket"), 1):
        with temporary_folder(ticket) as place:
            path = place / "mask"
            made = make_mask(checkpoint, histogram, "global", repr(sparsity), path)
            with PrivateMemory() as private:
                found = walk.losses(read_mask(path), tickets)
            retention = performance_retention(dense_loss, found.loss())
            peak = device_peak(walk.here.devices)
            iterations.append(
                Iteration(
                    iteration=number,
                    sparsity=sparsity,
                    kept=made.kept,
                    total=made.total,
                    loss=found.loss(),
                    accuracy=found.accuracy(),
                    performance_retention=retention,
                    winning=retention >= WINNING_RETENTION,
                    peak_host_private_bytes=private.peak,
                    peak_device_bytes=peak.allocated if peak else None,
                )
            )
            best = best_ticket(
                [entry.sparsity for entry in iterations], [entry.performance_retention for entry in iterations]
            )
            if best == number - 1:
                path.replace(ticket)
    inputs = {"checkpoint": checkpoint.fingerprint, "sequences": digest, "histogram": sha256_of(histogram)}
    return Simulation(
        model=names[0],
        data=names[1],
        baseline_loss=dense.loss(),
        baseline_accuracy=dense.accuracy(),
        baseline_sequences=len(input_ids),
        ticket_sequences=tickets,
        iterations=iterations,
        best=best + 1,
        provenance=provenance(inputs, asdict(settings) | {"target": target, "rounds": rounds, "batch": batch}),
    )


class _Walk:
    """Evaluates one model with one mask after another."""

    def __init__(
        self, checkpoint: Checkpoint, masked: tuple[str, ...], settings: ComputeSettings, input_ids: torch.Tensor
    ) -> None:
        self.here = Computing.of(settings, checkpoint)
        here, self._input_ids = self.here, input_ids
        skeleton, manifest = build_skeleton(checkpoint, here.dtype), checkpoint.manifest
        planner = EvaluationPlanner(
            skeleton, manifest, masked, here.dtype, here.accelerator, here.streamed, kept=here.kept(manifest)
        )
        count, length = input_ids.shape
        wanted = BatchSizes.generous(count, length, settings.micro_batch)
        self._sizes, _ = planner.fit(wanted, length, here.limit)
        self._file = checkpoint.weights
        self._mask: Mask | None = None
        self._others = other_dtypes(skeleton, here.dtype)
        self._model = CausalModel(
            skeleton, manifest, self._fetch, here.device, here.streamed, planner.division, here.shards
        )

    def _fetch(self, name: str) -> torch.Tensor:
        return fetch_from(self._file, self._mask, self.here.device, self.here.dtype, self._others)(name)

    def losses(self, mask: Mask | None, count: int) -> TokenLosses:
        """Return the losses of the first `count` sequences."""
        self._mask = mask
        self._model.reload()

        def attempt(sizes: BatchSizes) -> TokenLosses:
            part = self._input_ids[:count]
            return token_losses(self._model, part, sizes.micro_batch, sizes.chunk, sizes.super_batch)

        found, self._sizes, _ = backing_off(self._sizes, attempt)
        return found
