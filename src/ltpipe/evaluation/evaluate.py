"""The evaluation stage: a checkpoint, dense or masked, on fixed token sequences."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.evaluation.agreement import Comparison, Recorder, TopTokens
from ltpipe.evaluation.computing import ComputeSettings, Computing, backing_off
from ltpipe.evaluation.inputs import Inputs, PerturbationSettings, open_inputs
from ltpipe.evaluation.loss import TokenLosses, ticket_losses
from ltpipe.evaluation.metrics import Metrics, SequenceSums
from ltpipe.evaluation.passes import Identity, Queued
from ltpipe.evaluation.perturbation import perturbation_named, perturbing
from ltpipe.evaluation.plan import BatchSizes, EvaluationPlanner, fit_together
from ltpipe.evaluation.quality import changed_nothing, performance_retention, perplexity
from ltpipe.pruning.apply import fetches_from
from ltpipe.pruning.solution import criterion_of
from ltpipe.runtime.device import DevicePeak, device_peak, is_out_of_memory
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.fake_device import Peak
from ltpipe.runtime.files import sha256_of
from ltpipe.runtime.made_with import asking
from ltpipe.runtime.memory import PrivateMemory, peak_host_bytes
from ltpipe.runtime.provenance import provenance
from ltpipe.streaming.blocks import NotStreamableError
from ltpipe.streaming.model import CausalModel, why_alone
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
    solution: Path | None = None,
    code: str | None = None,
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
        top_k: number of top tokens to keep for each prediction.
        perturbation: how to perturb the prunable weights, after the mask.
        solution: file with new values of the weights, if a solver or a recovery changed them.
        code: digest of the code, for the provenance.

    Raises:
        UserError: mask, solution, baseline or top-k tokens belong to another model or text, or losses are not finite.
    """
    inputs = open_inputs(checkpoint, sequences, mask, baseline, perturbation, solution)
    (metrics,) = _Evaluation(checkpoint, settings, names, top_tokens, top_k, perturbation, code, [inputs]).run()
    assert metrics is not None  # otherwise it would have been an error
    return metrics


def evaluate_tickets(
    checkpoint: Checkpoint,
    sequences: Path,
    settings: ComputeSettings,
    names: Mapping[str, str],
    tickets: Sequence[Queued],
    baseline: Path,
    *,
    top_tokens: Path | None = None,
    top_k: int = 32,
    code: str | None = None,
) -> list[Metrics | None]:
    """Evaluate tickets of a model in one pass, which fetches each block's weights once.

    On the CPU the results are those of `evaluate_checkpoint`, to the bit. If anything is wrong with the tickets
    together, the first is evaluated alone: what is wrong with another is for its own job to say.

    Arguments but `tickets` are those of `evaluate_checkpoint`.

    Returns:
        Metrics of the first ticket, and of as many others as share its pass: the hidden states of all of them must fit
        in memory with the batch sizes of one. None for another ticket whose losses are not finite.

    Raises:
        UserError: as `evaluate_checkpoint`.
    """

    def together(tickets: Sequence[Queued]) -> list[Metrics | None]:
        inputs = []
        for ticket in tickets:
            with asking(ticket.made_with):
                inputs.append(open_inputs(checkpoint, sequences, ticket.mask, baseline, None))
        return _Evaluation(checkpoint, settings, names, top_tokens, top_k, None, code, inputs).run()

    if len(tickets) > 1:
        try:
            return together(tickets)
        except (NotStreamableError, UserError) as error:
            logger.warning("evaluated alone, not with other tickets: %s", error)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            logger.warning("evaluated alone: %d tickets ran out of memory", len(tickets))
    return together(tickets[:1])


def identity(
    checkpoint: Checkpoint,
    sequences: Path,
    settings: ComputeSettings,
    top_k: int,
    code: str | None,
    files: Sequence[Path],
) -> Identity:
    """Return what the metrics of a model's tickets are made from, whatever their masks."""
    inputs = {"checkpoint": checkpoint.fingerprint, "sequences": sha256_of(sequences)}
    return Identity(inputs, _described_settings(settings, top_k), code, files)


def _described_settings(settings: ComputeSettings, top_k: int) -> dict[str, Any]:
    return asdict(settings) | {"top_k": top_k}


@dataclass(frozen=True, eq=False)
class _Evaluation:
    """An evaluation of a dense model or of tickets that share a pass; see `evaluate_checkpoint` for the attributes."""

    checkpoint: Checkpoint
    settings: ComputeSettings
    names: Mapping[str, str]
    top_tokens: Path | None
    top_k: int
    perturbation: PerturbationSettings | None
    code: str | None
    tickets: Sequence[Inputs]

    def run(self) -> list[Metrics | None]:
        """Return metrics of the first ticket and of those that share its pass; None for losses that are not finite."""
        inputs, settings = self.tickets[0], self.settings
        perturb = perturbation_named(self.perturbation.name, self.perturbation.seed) if self.perturbation else None
        here = Computing.of(settings, self.checkpoint)
        skeleton = build_skeleton(self.checkpoint, here.dtype)
        count, length = inputs.sequences.shape
        vocabulary = skeleton.config.get_text_config().vocab_size
        observe = _observe(inputs, self.top_tokens, self.top_k, vocabulary)
        described = _described(observe() if observe else None)

        def planner(tickets: int) -> EvaluationPlanner:
            return EvaluationPlanner(
                skeleton,
                inputs.manifest,
                self._masked(tickets),
                here.dtype,
                here.accelerator,
                here.streamed,
                observe,
                perturb,
                inputs.perturbed,
                here.kept(inputs.manifest),
                tickets,
                inputs.solution.values if inputs.solution else (),
                {
                    **inputs.measured_on,
                    "observer": described,
                    "perturbation": self.perturbation.name if self.perturbation else None,
                },
            )

        alone = planner(1)
        sizes, planned = alone.fit(BatchSizes.generous(count, length, settings.micro_batch), length, here.limit)
        most = 1 if alone.unforeseen else self._shareable(here, skeleton)
        together, peak = fit_together(planner, most, sizes, length, here.limit)
        planned = peak or planned

        tickets = self.tickets[:together]
        others = other_dtypes(skeleton, here.dtype)
        fetch, *further = fetches_from(
            self.checkpoint.weights,
            [ticket.mask for ticket in tickets],
            here.device,
            here.dtype,
            others,
            inputs.manifest.in_blocks,
            inputs.solution,
        )
        if perturb:
            fetch = perturbing(fetch, perturb, inputs.perturbed, inputs.manifest)
        start = time.perf_counter()
        with PrivateMemory() as private:
            model = CausalModel(
                skeleton, inputs.manifest, fetch, here.device, here.streamed, alone.division, here.shards, further
            )
            observers = [observe() if observe else None for _ in tickets]
            input_ids = torch.from_numpy(inputs.sequences.astype(np.int64))

            def attempt(sizes: BatchSizes) -> list[TokenLosses]:
                return ticket_losses(model, input_ids, sizes.micro_batch, sizes.chunk, sizes.super_batch, observers)

            out_of_memory: list[str] = []
            if together > 1:
                found = attempt(sizes)
            else:
                found, sizes, out_of_memory = backing_off(sizes, attempt)
        found[0].check_finite()
        cost = _Cost(
            here,
            model.execution,
            sizes,
            out_of_memory,
            planned,
            private,
            device_peak(here.devices),
            (time.perf_counter() - start) / together,
            together,
        )
        if isinstance(observers[0], Recorder) and self.top_tokens:
            observers[0].top.write(self.top_tokens, inputs.measured_on)
        return [
            self._metrics(ticket, losses, observer, vocabulary, cost) if losses.finite else None
            for ticket, losses, observer in zip(tickets, found, observers, strict=True)
        ]

    def _masked(self, tickets: int) -> set[str]:
        return {name for ticket in self.tickets[:tickets] if ticket.mask for name in ticket.mask.bits}

    def _shareable(self, here: Computing, skeleton: nn.Module) -> int:
        """Return how many tickets can share a pass, whatever memory there is."""
        most = len(self.tickets)
        if most == 1:
            return 1
        manifest = self.checkpoint.manifest
        reason = "" if here.streamed and not here.shards else "all weights stay on the device"
        reason = reason or why_alone(skeleton, manifest)
        outside = next((name for name in self._masked(most) if not manifest.in_blocks(name)), None)
        if outside and not reason:
            reason = f"masks prune '{outside}', which is outside the blocks"
        if reason:
            logger.warning("evaluated alone, not with other tickets: %s", reason)
        return 1 if reason else most

    def _metrics(
        self,
        inputs: Inputs,
        losses: TokenLosses,
        observer: Recorder | Comparison | None,
        vocabulary: int,
        cost: "_Cost",
    ) -> Metrics:
        here, sizes = cost.here, cost.sizes
        loss, dense_loss, pruning = losses.loss(), inputs.baseline_loss, inputs.mask
        compared = observer if isinstance(observer, Comparison) else None
        if pruning and dense_loss is not None and changed_nothing(pruning.total_kept, pruning.total, dense_loss, loss):
            logger.warning(
                "the loss is bit-identical to the dense model's, with %d of %d weights pruned: these were zeros "
                "already, or the model does not compute with them; ltpipe inspect lists the tensors of checkpoint and "
                "mask",
                pruning.total - pruning.total_kept,
                pruning.total,
            )
        return Metrics(
            model=self.names["model"],
            data=self.names["data"],
            criterion=criterion_of(pruning, inputs.solution),
            scope=pruning.scope if pruning else None,
            seed=pruning.seed if pruning else None,
            sparsity=pruning.sparsity.text if pruning else None,
            perturbation=self.perturbation.name if self.perturbation else None,
            perturbation_seed=self.perturbation.seed if self.perturbation else None,
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
            num_sequences=len(inputs.sequences),
            tokens=losses.losses.numel(),
            precision=here.precision,  # type: ignore[arg-type]
            device=", ".join(map(str, here.devices)),
            execution=cost.execution,
            super_batch=sizes.super_batch,
            micro_batch=sizes.micro_batch,
            chunk=sizes.chunk,
            tickets=cost.tickets,
            out_of_memory=cost.out_of_memory,
            threads=here.threads,
            planned_bytes=cost.planned.total,
            planned_parts=dict(cost.planned.parts),
            measured_bytes=cost.device.allocated if cost.device else cost.private.peak - cost.private.before,
            peak_host_bytes=peak_host_bytes(),
            peak_host_private_bytes=cost.private.peak,
            peak_device_bytes=cost.device.allocated if cost.device else None,
            peak_device_reserved_bytes=cost.device.reserved if cost.device else None,
            seconds=cost.seconds,
            sequence_sums=_sequence_sums(losses, compared),
            provenance=provenance(inputs.hashes, _described_settings(self.settings, self.top_k)) | {"code": self.code},
        )


@dataclass(frozen=True)
class _Cost:
    """What a pass took; `seconds` is each ticket's share."""

    here: Computing
    execution: str
    sizes: BatchSizes
    out_of_memory: list[str]
    planned: Peak
    private: PrivateMemory
    device: DevicePeak | None
    seconds: float
    tickets: int


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
