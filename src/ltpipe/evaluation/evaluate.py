"""The evaluation stage: a checkpoint, dense or masked, on fixed token sequences."""

import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from ltpipe.checkpoints.layout import CONFIG, MANIFEST, WEIGHTS
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
from ltpipe.runtime.files import read_json, sha256_of
from ltpipe.runtime.memory import peak_host_bytes
from ltpipe.runtime.provenance import provenance
from ltpipe.runtime.threads import available_threads
from ltpipe.streaming.model import CausalModel, build_skeleton

logger = logging.getLogger(__name__)

_MICRO_BATCH_TOKENS = 1024
_CHUNK = 128

Precision = Literal["auto", "float32", "bfloat16", "float16"]
Execution = Literal["streamed", "in-memory"]


@dataclass(frozen=True)
class Settings:
    """How to evaluate.

    Attributes:
        precision: dtype to compute in; `auto` is the checkpoint's own.
        micro_batch: sequences that go through a block together; 0 chooses about a thousand tokens.
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
    manifest = Manifest.read(folder / MANIFEST)
    pruning = _mask_for(manifest, mask)
    data = TokenSequences.read(sequences)
    inputs = {"checkpoint": manifest.fingerprint, "sequences": sha256_of(sequences)}
    baseline_loss = _baseline_loss(baseline, inputs) if pruning else None
    if mask:
        inputs["mask"] = sha256_of(mask)
    threads = available_threads(settings.threads)
    if settings.micro_batch < 0:
        raise UserError(f"micro_batch: {settings.micro_batch} is not allowed; allowed are 0 (automatic) and more")
    torch.set_num_threads(threads)
    device = device_named(settings.device)
    precision = read_json(folder / CONFIG)["dtype"] if settings.precision == "auto" else settings.precision
    dtype = getattr(torch, precision)
    micro_batch = settings.micro_batch or max(1, _MICRO_BATCH_TOKENS // data.input_ids.shape[1])

    start = time.perf_counter()
    fetch = fetch_from(TensorFile(folder / WEIGHTS), pruning, device, dtype)
    model = CausalModel(build_skeleton(folder, dtype), manifest, fetch, device, settings.execution == "streamed")
    losses = token_losses(model, torch.from_numpy(data.input_ids.astype(np.int64)), micro_batch, _CHUNK)
    seconds = time.perf_counter() - start

    loss = losses.loss()
    return Metrics(
        model=names["model"],
        data=names["data"],
        criterion=pruning.criterion if pruning else None,
        scope=pruning.scope if pruning else None,
        seed=pruning.seed if pruning else None,
        sparsity=pruning.sparsity if pruning else None,
        kept=pruning.total_kept if pruning else None,
        total=pruning.total if pruning else None,
        parameters=manifest.parameters,
        loss=loss,
        perplexity=perplexity(loss),
        accuracy=losses.accuracy(),
        performance_retention=1.0 if baseline_loss is None else performance_retention(baseline_loss, loss),
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
        provenance=provenance(inputs, asdict(settings)),
    )


def _mask_for(manifest: Manifest, path: Path | None) -> Mask | None:
    if path is None:
        return None
    mask = read_mask(path)
    mask.check_made_for(manifest.fingerprint, path)
    return mask


def _baseline_loss(path: Path | None, inputs: Mapping[str, str]) -> float:
    if path is None:
        raise UserError("a ticket is measured against its dense model: give --baseline with --mask")
    baseline = Metrics.read(path)
    if baseline.sparsity is not None:
        raise UserError(f"{path}: metrics of a ticket; the baseline is the dense model's")
    for what, fingerprint in inputs.items():
        if baseline.provenance["inputs"].get(what) != fingerprint:
            raise UserError(f"{path}: baseline of other {what}; evaluate the dense model on the same {what}")
    return baseline.loss


def _sequence_totals(losses: TokenLosses) -> SequenceTotals:
    count, targets = losses.losses.shape
    return SequenceTotals(losses.loss_sums().tolist(), losses.correct.sum(1).tolist(), [targets] * count)
