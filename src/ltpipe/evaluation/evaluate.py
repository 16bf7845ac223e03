"""The evaluation stage: a checkpoint, dense or masked, on fixed token sequences."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from ltpipe.checkpoints.layout import MANIFEST, TOKENIZER, WEIGHTS
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.checkpoints.prunable import Selection
from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.data.sequences import TokenSequences
from ltpipe.evaluation.agreement import Comparison, Recorder, TopTokens
from ltpipe.evaluation.loss import Observer, TokenLosses, token_losses
from ltpipe.evaluation.metrics import Metrics, SequenceTotals
from ltpipe.evaluation.perturbation import perturbation_named, perturbing
from ltpipe.evaluation.plan import BatchSizes, EvaluationPlanner
from ltpipe.evaluation.quality import performance_retention, perplexity
from ltpipe.pruning.apply import fetch_from
from ltpipe.pruning.masks import Mask, read_mask
from ltpipe.runtime.device import device_named, device_peak, free_bytes, is_out_of_memory
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.files import sha256_of
from ltpipe.runtime.memory import GIB, PrivateMemory, peak_host_bytes
from ltpipe.runtime.provenance import provenance
from ltpipe.runtime.threads import available_threads
from ltpipe.streaming.model import CausalModel, build_skeleton, stored_precision

logger = logging.getLogger(__name__)

USABLE = 0.9
"""Of what is free on a device: allocators need some room between tensors."""

Precision = Literal["auto", "float32", "bfloat16", "float16"]
Execution = Literal["streamed", "in-memory"]


@dataclass(frozen=True)
class Settings:
    """How to evaluate.

    Attributes:
        precision: dtype to compute in; `auto` is the checkpoint's own.
        micro_batch: at most so many sequences go through a block together; 0 means about four thousand tokens.
        device_memory: GiB that tensors may take on the device (of main memory, on the CPU); 0 means what is free.
        device: `auto`, `cpu`, `cuda`, ….
        execution: one block of weights at a time, or all of them.
        threads: of the CPU; 0 takes every processor that the process may use.
        top_k: how many of the dense model's likeliest tokens to keep of each prediction.
    """

    precision: Precision = "auto"
    micro_batch: int = 0
    device_memory: float = 0.0
    device: str = "auto"
    execution: Execution = "streamed"
    threads: int = 0
    top_k: int = 32


@dataclass(frozen=True)
class Disturbance:
    """How weights are perturbed.

    Attributes:
        name: of the perturbation.
        seed: of the noise; None for rounding.
        prunable: which weights are perturbed where no mask says it: those that a mask would be made for.
    """

    name: str
    seed: int | None = None
    prunable: Selection = field(default_factory=Selection)


def evaluate_checkpoint(
    folder: Path,
    sequences: Path,
    settings: Settings,
    names: Mapping[str, str],
    mask: Path | None = None,
    baseline: Path | None = None,
    *,
    top_tokens: Path | None = None,
    disturbance: Disturbance | None = None,
) -> Metrics:
    """Evaluate a canonical checkpoint, masked if `mask` is given.

    Args:
        folder: canonical checkpoint folder.
        sequences: token sequences that the checkpoint's tokenizer made.
        settings: how to evaluate.
        names: `model` and `data`, as they are to be called in the metrics.
        mask: mask file made from this checkpoint.
        baseline: metrics of the dense model on the same sequences; needed with a mask or a disturbance.
        top_tokens: file of the dense model's likeliest tokens: read if there is a baseline, else written.
        disturbance: perturbs the prunable weights, after the mask.

    Raises:
        UserError: mask, baseline or likeliest tokens belong to another model or text, or losses are not finite.
    """
    inputs = _open(folder, sequences, mask, baseline, disturbance)
    perturbation = perturbation_named(disturbance.name, disturbance.seed) if disturbance else None
    for name in ("micro_batch", "device_memory", "top_k"):
        if getattr(settings, name) < 0:
            raise UserError(f"{name}: {getattr(settings, name)} is not allowed; allowed are 0 (automatic) and more")
    threads = available_threads(settings.threads)
    torch.set_num_threads(threads)
    device = device_named(settings.device)
    precision = stored_precision(folder) if settings.precision == "auto" else settings.precision
    dtype = getattr(torch, precision)
    streamed = settings.execution == "streamed"

    skeleton = build_skeleton(folder, dtype)
    masked = inputs.mask.bits if inputs.mask else ()
    count, length = inputs.sequences.shape
    observe = _observe(inputs, top_tokens, settings.top_k, skeleton.config.get_text_config().vocab_size)
    planner = EvaluationPlanner(
        skeleton,
        inputs.manifest,
        masked,
        dtype,
        device.type != "cpu",
        streamed,
        observe,
        perturbation,
        inputs.perturbed,
    )
    wanted = BatchSizes.generous(count, length, settings.micro_batch)
    limit = settings.device_memory * GIB or USABLE * free_bytes(device)
    sizes, planned = planner.fit(wanted, length, limit)

    fetch = fetch_from(TensorFile(folder / WEIGHTS), inputs.mask, device, dtype)
    if perturbation:
        fetch = perturbing(fetch, perturbation, inputs.perturbed, inputs.manifest)
    start = time.perf_counter()
    with PrivateMemory() as private:
        model = CausalModel(skeleton, inputs.manifest, fetch, device, streamed, planner.division)
        observer = observe() if observe else None
        walked = _walk(model, torch.from_numpy(inputs.sequences.astype(np.int64)), sizes, observer)
    seconds = time.perf_counter() - start
    peak = device_peak(device)

    if isinstance(observer, Recorder) and top_tokens:
        observer.top.write(top_tokens, inputs.measured_on)
    losses, loss, dense_loss, pruning = walked.losses, walked.losses.loss(), inputs.baseline_loss, inputs.mask
    compared = observer if isinstance(observer, Comparison) else None
    return Metrics(
        model=names["model"],
        data=names["data"],
        criterion=pruning.criterion if pruning else None,
        scope=pruning.scope if pruning else None,
        seed=pruning.seed if pruning else None,
        sparsity=pruning.sparsity if pruning else None,
        perturbation=disturbance.name if disturbance else None,
        perturbation_seed=disturbance.seed if disturbance else None,
        kept=pruning.total_kept if pruning else None,
        total=pruning.total if pruning else None,
        parameters=inputs.manifest.parameters,
        loss=loss,
        perplexity=perplexity(loss),
        accuracy=losses.accuracy(),
        performance_retention=1.0 if dense_loss is None else performance_retention(dense_loss, loss),
        agreement=compared.agreement() if compared else None,
        kl_top_k=compared.divergence() if compared else None,
        top_k=observer.k if observer else None,
        tokens=losses.losses.numel(),
        precision=precision,
        device=str(device),
        execution="streamed" if model.streamed else f"in-memory: {model.not_streamed_because}",
        super_batch=walked.sizes.super_batch,
        micro_batch=walked.sizes.micro_batch,
        chunk=walked.sizes.chunk,
        out_of_memory=walked.out_of_memory,
        threads=threads,
        planned_bytes=planned.total,
        planned_parts=dict(planned.parts),
        measured_bytes=peak.allocated if peak else private.peak - private.before,
        peak_host_bytes=peak_host_bytes(),
        peak_host_private_bytes=private.peak,
        peak_device_bytes=peak.allocated if peak else None,
        peak_device_reserved_bytes=peak.reserved if peak else None,
        seconds=seconds,
        sequences=_sequence_totals(losses, compared),
        provenance=provenance(inputs.hashes, asdict(settings)),
    )


@dataclass(frozen=True)
class _Walked:
    """Losses, the batch sizes that they were found with at last, and the times that memory ran out before."""

    losses: TokenLosses
    sizes: BatchSizes
    out_of_memory: list[str]


def _walk(model: CausalModel, input_ids: torch.Tensor, sizes: BatchSizes, observer: Observer | None) -> _Walked:
    """Losses with the given batch sizes, or smaller ones if memory runs out all the same."""
    happened: list[str] = []
    while True:
        try:
            losses = token_losses(model, input_ids, sizes.micro_batch, sizes.chunk, sizes.super_batch, observer)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            smaller = sizes.shrunk()
            if smaller is None:
                raise UserError(f"memory ran out with {sizes}: there is nothing left to halve") from None
            happened.append(f"memory ran out with {sizes}; went on with {smaller}")
            logger.warning(happened[-1])
            sizes = smaller
        else:
            return _Walked(losses, sizes, happened)


@dataclass(frozen=True)
class _Inputs:
    """What an evaluation reads, checked to belong together.

    `perturbed` names tensors, `measured_on` identifies checkpoint and sequences, `hashes` is what the metrics say about
    all inputs.
    """

    manifest: Manifest
    sequences: np.ndarray
    mask: Mask | None
    perturbed: frozenset[str]
    baseline_loss: float | None
    measured_on: dict[str, str]
    hashes: dict[str, str]


def _open(
    folder: Path, sequences: Path, mask: Path | None, baseline: Path | None, disturbance: Disturbance | None
) -> _Inputs:
    manifest = Manifest.read(folder / MANIFEST)
    data = TokenSequences.read(sequences)
    if data.tokenizer != sha256_of(folder / TOKENIZER):
        raise UserError(f"{sequences}: made with another tokenizer than that of {folder}; run the data stage with it")
    measured_on = {"checkpoint": manifest.fingerprint, "sequences": sha256_of(sequences)}
    if (mask is None and disturbance is None) != (baseline is None):
        raise UserError(
            "a ticket, or a model with --perturbation, is measured against its dense model: "
            + ("give --mask and --baseline, or neither" if disturbance is None else "give --baseline")
        )
    hashes, pruning = measured_on, None
    if mask is not None:
        pruning = read_mask(mask)
        pruning.check_made_for(manifest.fingerprint, mask)
        hashes = hashes | {"mask": sha256_of(mask)}
    loss = None if baseline is None else _baseline_loss(baseline, measured_on)
    names = (pruning.bits if pruning else disturbance.prunable.names(manifest)) if disturbance else ()
    return _Inputs(manifest, data.input_ids, pruning, frozenset(names), loss, measured_on, hashes)


def _baseline_loss(path: Path, hashes: Mapping[str, str]) -> float:
    baseline = Metrics.read(path)
    if baseline.sparsity is not None or baseline.perturbation is not None:
        raise UserError(f"{path}: metrics of a ticket or a perturbed model; the baseline is the dense model's")
    baseline.check_measured_on(hashes, str(path))
    return baseline.loss


def _observe(
    inputs: _Inputs, top_tokens: Path | None, top_k: int, vocabulary: int
) -> Callable[[], Recorder | Comparison] | None:
    """What makes the observer of an evaluation: one that records without a baseline, one that compares with it."""
    if top_tokens is None:
        return None
    count, length = inputs.sequences.shape
    predictions = count * (length - 1)
    if inputs.baseline_loss is not None:
        return partial(Comparison, TopTokens.read(top_tokens, inputs.measured_on, predictions, vocabulary))
    return partial(Recorder, predictions, min(top_k, vocabulary)) if top_k else None


def _sequence_totals(losses: TokenLosses, compared: Comparison | None) -> SequenceTotals:
    count, targets = losses.losses.shape
    return SequenceTotals(
        losses.loss_sums().tolist(),
        losses.correct.sum(1).tolist(),
        [targets] * count,
        compared.agrees.view(count, -1).sum(1).tolist() if compared else None,
        compared.kl.view(count, -1).sum(1).tolist() if compared else None,
    )
