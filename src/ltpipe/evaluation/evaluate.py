"""The evaluation stage: a checkpoint, dense or masked, on fixed token sequences."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.evaluation.agreement import Comparison, Recorder, TopTokens
from ltpipe.evaluation.computing import ComputeSettings, Computing, backing_off
from ltpipe.evaluation.inputs import Inputs, PerturbationSettings, open_inputs
from ltpipe.evaluation.loss import TokenLosses, token_losses
from ltpipe.evaluation.metrics import Metrics, SequenceSums
from ltpipe.evaluation.perturbation import perturbation_named, perturbing
from ltpipe.evaluation.plan import BatchSizes, EvaluationPlanner
from ltpipe.evaluation.quality import changed_nothing, performance_retention, perplexity
from ltpipe.pruning.apply import fetch_from
from ltpipe.runtime.device import device_peak
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.memory import PrivateMemory, peak_host_bytes
from ltpipe.runtime.provenance import provenance
from ltpipe.streaming.model import CausalModel
from ltpipe.streaming.skeleton import build_skeleton, other_dtypes

logger = logging.getLogger(__name__)


def evaluate_checkpoint(
    checkpoint: Checkpoint,
    sequences: Path,
    settings: ComputeSettings,
    names: Mapping[str, str],
    mask: Path | None = None,
    baseline: Path | None = None,
    *,
    top_tokens: Path | None = None,
    top_k: int = 32,
    perturbation: PerturbationSettings | None = None,
) -> Metrics:
    """Evaluate a canonical checkpoint, masked if `mask` is given.

    Args:
        checkpoint: the model's checkpoint.
        sequences: token sequences made with the checkpoint's tokenizer.
        settings: how to compute.
        names: names of `model` and `data` in the metrics.
        mask: mask file made from this checkpoint.
        baseline: metrics of the dense model on the same sequences; required with a mask or a perturbation.
        top_tokens: file of the dense model's top-k tokens: read if there is a baseline, otherwise written.
        top_k: number of tokens to keep for each prediction.
        perturbation: how to perturb the prunable weights, after the mask.

    Raises:
        UserError: mask, baseline or top-k tokens belong to another model or text, or losses are not finite.
    """
    inputs = open_inputs(checkpoint, sequences, mask, baseline, perturbation)
    perturb = perturbation_named(perturbation.name, perturbation.seed) if perturbation else None
    here = Computing.of(settings, checkpoint)
    skeleton = build_skeleton(checkpoint, here.dtype)
    masked = inputs.mask.bits if inputs.mask else ()
    count, length = inputs.sequences.shape
    vocabulary = skeleton.config.get_text_config().vocab_size
    observe = _observe(inputs, top_tokens, top_k, vocabulary)
    planner = EvaluationPlanner(
        skeleton,
        inputs.manifest,
        masked,
        here.dtype,
        here.accelerator,
        here.streamed,
        observe,
        perturb,
        inputs.perturbed,
        here.kept(inputs.manifest),
        {
            **inputs.measured_on,
            "observer": _described(observe() if observe else None),
            "perturbation": perturbation.name if perturbation else None,
        },
    )
    wanted = BatchSizes.generous(count, length, settings.micro_batch)
    sizes, planned = planner.fit(wanted, length, here.limit)

    fetch = fetch_from(checkpoint.weights, inputs.mask, here.device, here.dtype, other_dtypes(skeleton, here.dtype))
    if perturb:
        fetch = perturbing(fetch, perturb, inputs.perturbed, inputs.manifest)
    start = time.perf_counter()
    with PrivateMemory() as private:
        model = CausalModel(skeleton, inputs.manifest, fetch, here.device, here.streamed, planner.division, here.shards)
        observer = observe() if observe else None
        input_ids = torch.from_numpy(inputs.sequences.astype(np.int64))

        def attempt(sizes: BatchSizes) -> TokenLosses:
            return token_losses(model, input_ids, sizes.micro_batch, sizes.chunk, sizes.super_batch, observer)

        losses, sizes, out_of_memory = backing_off(sizes, attempt)
    seconds = time.perf_counter() - start
    peak = device_peak(here.devices)

    if isinstance(observer, Recorder) and top_tokens:
        observer.top.write(top_tokens, inputs.measured_on)
    loss, dense_loss, pruning = losses.loss(), inputs.baseline_loss, inputs.mask
    compared = observer if isinstance(observer, Comparison) else None
    if pruning and dense_loss is not None and changed_nothing(pruning.total_kept, pruning.total, dense_loss, loss):
        logger.warning(
            "the loss is bit-identical to the dense model's, with %d of %d weights pruned: these were zeros already, "
            "or the model does not compute with them; ltpipe inspect lists the tensors of checkpoint and mask",
            pruning.total - pruning.total_kept,
            pruning.total,
        )
    return Metrics(
        model=names["model"],
        data=names["data"],
        criterion=pruning.criterion if pruning else None,
        scope=pruning.scope if pruning else None,
        seed=pruning.seed if pruning else None,
        sparsity=pruning.sparsity.text if pruning else None,
        perturbation=perturbation.name if perturbation else None,
        perturbation_seed=perturbation.seed if perturbation else None,
        kept=pruning.total_kept if pruning else None,
        total=pruning.total if pruning else None,
        parameters=inputs.manifest.parameters,
        vocabulary=vocabulary,
        loss=loss,
        perplexity=perplexity(loss),
        accuracy=losses.accuracy(),
        performance_retention=1.0 if dense_loss is None else performance_retention(dense_loss, loss),
        agreement=compared.agreement() if compared else None,
        kl=compared.mean_kl() if compared else None,
        top_k=observer.k if observer else None,
        protocol=inputs.protocol,  # type: ignore[arg-type]  # words are checked when they are written
        bos=inputs.bos,  # type: ignore[arg-type]
        num_sequences=count,
        tokens=losses.losses.numel(),
        precision=here.precision,  # type: ignore[arg-type]
        device=", ".join(map(str, here.devices)),
        execution=model.execution,
        super_batch=sizes.super_batch,
        micro_batch=sizes.micro_batch,
        chunk=sizes.chunk,
        out_of_memory=out_of_memory,
        threads=here.threads,
        planned_bytes=planned.total,
        planned_parts=dict(planned.parts),
        measured_bytes=peak.allocated if peak else private.peak - private.before,
        peak_host_bytes=peak_host_bytes(),
        peak_host_private_bytes=private.peak,
        peak_device_bytes=peak.allocated if peak else None,
        peak_device_reserved_bytes=peak.reserved if peak else None,
        seconds=seconds,
        sequence_sums=_sequence_sums(losses, compared),
        provenance=provenance(inputs.hashes, asdict(settings) | {"top_k": top_k}),
    )


def _observe(
    inputs: Inputs, top_tokens: Path | None, top_k: int, vocabulary: int
) -> Callable[[], Recorder | Comparison] | None:
    """Return a factory for the observer: one that compares with the baseline, or records if there is none."""
    if top_k < 0:
        raise UserError(f"top_k: {top_k} is not allowed; use 0 (compare nothing) or more")
    if top_tokens is None:
        return None
    count, length = inputs.sequences.shape
    predictions = count * (length - 1)
    if inputs.baseline_loss is not None:
        return partial(Comparison, TopTokens.read(top_tokens, inputs.measured_on, predictions, vocabulary))
    return partial(Recorder, predictions, min(top_k, vocabulary)) if top_k else None


def _described(observer: Recorder | Comparison | None) -> list[Any] | None:
    return [type(observer).__name__, observer.k] if observer else None


def _sequence_sums(losses: TokenLosses, compared: Comparison | None) -> SequenceSums:
    count, targets = losses.losses.shape
    return SequenceSums(
        losses.loss_sums().tolist(),
        losses.correct.sum(1).tolist(),
        [targets] * count,
        compared.agrees.view(count, -1).sum(1).tolist() if compared else None,
        compared.kl.view(count, -1).sum(1).tolist() if compared else None,
    )
