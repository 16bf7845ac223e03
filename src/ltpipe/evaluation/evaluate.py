"""The evaluation stage: a checkpoint, dense or masked, on fixed token sequences."""

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from ltpipe.checkpoints.layout import MANIFEST, TOKENIZER, WEIGHTS
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.data.sequences import TokenSequences
from ltpipe.evaluation.loss import TokenLosses, token_losses
from ltpipe.evaluation.metrics import Metrics, SequenceTotals
from ltpipe.evaluation.quality import performance_retention, perplexity
from ltpipe.pruning.apply import fetch_from
from ltpipe.pruning.masks import Mask, read_mask
from ltpipe.runtime.device import device_named, peak_device_bytes
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.files import sha256_of
from ltpipe.runtime.memory import peak_host_bytes
from ltpipe.runtime.provenance import provenance
from ltpipe.runtime.threads import available_threads
from ltpipe.streaming.model import CausalModel, build_skeleton, stored_precision

_MICRO_BATCH_TOKENS = 4096
_CHUNK = 128

Precision = Literal["auto", "float32", "bfloat16", "float16"]
Execution = Literal["streamed", "in-memory"]


@dataclass(frozen=True)
class Settings:
    """How to evaluate.

    Attributes:
        precision: dtype to compute in; `auto` is the checkpoint's own.
        micro_batch: sequences that go through a block together; 0 chooses about four thousand tokens.
        device: `auto`, `cpu`, `cuda`, ….
        execution: one block of weights at a time, or all of them.
        threads: of the CPU; 0 takes every processor that the process may use.
    """

    precision: Precision = "auto"
    micro_batch: int = 0
    device: str = "auto"
    execution: Execution = "streamed"
    threads: int = 0


def evaluate_checkpoint(
    folder: Path,
    sequences: Path,
    settings: Settings,
    names: Mapping[str, str],
    mask: Path | None = None,
    baseline: Path | None = None,
) -> Metrics:
    """Evaluate a canonical checkpoint, masked if `mask` is given.

    Args:
        folder: canonical checkpoint folder.
        sequences: token sequences that the checkpoint's tokenizer made.
        settings: how to evaluate.
        names: `model` and `data`, as they are to be called in the metrics.
        mask: mask file made from this checkpoint.
        baseline: metrics of the dense model on the same sequences; needed with a mask.

    Raises:
        UserError: mask or baseline belong to another model or text, or losses are not finite.
    """
    inputs = _open(folder, sequences, mask, baseline)
    if settings.micro_batch < 0:
        raise UserError(f"micro_batch: {settings.micro_batch} is not allowed; allowed are 0 (automatic) and more")
    threads = available_threads(settings.threads)
    torch.set_num_threads(threads)
    device = device_named(settings.device)
    precision = stored_precision(folder) if settings.precision == "auto" else settings.precision
    dtype = getattr(torch, precision)
    micro_batch = settings.micro_batch or max(1, _MICRO_BATCH_TOKENS // inputs.sequences.shape[1])

    fetch = fetch_from(TensorFile(folder / WEIGHTS), inputs.mask, device, dtype)
    skeleton = build_skeleton(folder, dtype)
    start = time.perf_counter()
    model = CausalModel(skeleton, inputs.manifest, fetch, device, settings.execution == "streamed")
    losses = token_losses(model, torch.from_numpy(inputs.sequences.astype(np.int64)), micro_batch, _CHUNK)
    seconds = time.perf_counter() - start

    loss, pruning = losses.loss(), inputs.mask
    return Metrics(
        model=names["model"],
        data=names["data"],
        criterion=pruning.criterion if pruning else None,
        scope=pruning.scope if pruning else None,
        seed=pruning.seed if pruning else None,
        sparsity=pruning.sparsity if pruning else None,
        kept=pruning.total_kept if pruning else None,
        total=pruning.total if pruning else None,
        parameters=inputs.manifest.parameters,
        loss=loss,
        perplexity=perplexity(loss),
        accuracy=losses.accuracy(),
        performance_retention=performance_retention(inputs.baseline_loss, loss) if pruning else 1.0,
        tokens=losses.losses.numel(),
        precision=precision,
        device=str(device),
        execution="streamed" if model.streamed else f"in-memory: {model.not_streamed_because}",
        micro_batch=micro_batch,
        chunk=_CHUNK,
        threads=threads,
        peak_host_bytes=peak_host_bytes(),
        peak_device_bytes=peak_device_bytes(device),
        seconds=seconds,
        sequences=_sequence_totals(losses),
        provenance=provenance(inputs.hashes, asdict(settings)),
    )


@dataclass(frozen=True)
class _Inputs:
    """What an evaluation reads, checked to belong together. `hashes` is what the metrics say about it."""

    manifest: Manifest
    sequences: np.ndarray
    mask: Mask | None
    baseline_loss: float
    hashes: dict[str, str]


def _open(folder: Path, sequences: Path, mask: Path | None, baseline: Path | None) -> _Inputs:
    manifest = Manifest.read(folder / MANIFEST)
    data = TokenSequences.read(sequences)
    if data.tokenizer != sha256_of(folder / TOKENIZER):
        raise UserError(f"{sequences}: made with another tokenizer than that of {folder}; run the data stage with it")
    hashes = {"checkpoint": manifest.fingerprint, "sequences": sha256_of(sequences)}
    if (mask is None) != (baseline is None):
        raise UserError("a ticket is measured against its dense model: give --mask and --baseline, or neither")
    if mask is None or baseline is None:
        return _Inputs(manifest, data.input_ids, None, math.nan, hashes)
    pruning = read_mask(mask)
    pruning.check_made_for(manifest.fingerprint, mask)
    loss = _baseline_loss(baseline, hashes)
    return _Inputs(manifest, data.input_ids, pruning, loss, hashes | {"mask": sha256_of(mask)})


def _baseline_loss(path: Path, hashes: Mapping[str, str]) -> float:
    baseline = Metrics.read(path)
    if baseline.sparsity is not None:
        raise UserError(f"{path}: metrics of a ticket; the baseline is the dense model's")
    baseline.check_measured_on(hashes, str(path))
    return baseline.loss


def _sequence_totals(losses: TokenLosses) -> SequenceTotals:
    count, targets = losses.losses.shape
    return SequenceTotals(losses.loss_sums().tolist(), losses.correct.sum(1).tolist(), [targets] * count)
