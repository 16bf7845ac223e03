"""What an evaluation found, as a small JSON file that says where it comes from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, MinLen, Predicate

from ltpipe.pruning.sparsity import Sparsity
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.records import Amount, Count, Positive, Record, Share, Word


def _is_canonical(text: str) -> bool:
    try:
        return Sparsity.of(text).canonical == text
    except UserError:
        return False


CanonicalSparsity = Annotated[str, Predicate(_is_canonical)]
"""A sparsity as it stands in names of files."""


@dataclass(frozen=True)
class SequenceTotals:
    """Per-sequence sums, from which paired intervals are made.

    Attributes:
        loss_sum: nats.
        correct: tokens predicted right.
        tokens: tokens predicted.
        agree: tokens for which the dense model's likeliest token is the likeliest; None if it was not compared.
        kl_sum: summed `kl_top_k`, nats; None if it was not compared.
    """

    loss_sum: Annotated[list[Amount], MinLen(1)]
    correct: Annotated[list[Count], MinLen(1)]
    tokens: Annotated[list[Count], MinLen(1)]
    agree: Annotated[list[Count], MinLen(1)] | None = None
    kl_sum: Annotated[list[Amount], MinLen(1)] | None = None


def memory_line(planned: int, measured: int, device: str) -> str:
    """What was planned and what was measured, bytes, in words that say what the numbers are of.

    Only an accelerator's allocator counts tensors. On the CPU the process is measured, whose libraries and allocator
    take more than tensors: some 100 MiB for a small model.
    """
    mib = f"{planned / 2**20:,.0f} MiB"
    if device == "cpu":
        return f"peak memory: {mib} planned for tensors, process grew by {measured / 2**20:,.0f} MiB with libraries"
    return f"peak memory of tensors: {mib} planned, {measured / 2**20:,.0f} MiB measured"


@dataclass(frozen=True, kw_only=True)
class Metrics(Record):
    """Metrics of a dense model or of a ticket on one text.

    Attributes:
        model, data: names in the configuration.
        criterion, scope, seed, sparsity: of the mask; None for the dense model, seed also where none was used.
        perturbation: of the weights, noise or rounding; None for weights as they are.
        perturbation_seed: of the noise; None where there is none.
        kept, total: prunable weights kept, and in all; None for the dense model.
        parameters: all parameters of the model, tied ones once.
        vocabulary: tokens that the model chooses from; a uniform guess among them has a loss of ln(vocabulary).
        loss: nats per token.
        perplexity: exp(loss); None above the range of float64.
        accuracy: fraction of next tokens predicted right.
        performance_retention: baseline loss / loss; 1.0 for the dense model.
        agreement: fraction of tokens for which the dense model's likeliest token is the likeliest; None for the dense
            model, or where its predictions were not kept.
        kl_top_k: KL divergence of the predictions from the dense model's, over its k likeliest tokens and all others
            as one, nats per token: a lower bound of that over the vocabulary. None as for `agreement`.
        top_k: that k; for the dense model the number of tokens that were kept; None where none were.
        protocol: how the text became windows: `documents`, or `wikitext2`, that of the literature.
        bos: which windows begin as the tokenizer begins a text: `each window`, `first window` or `never`.
        windows: number of sequences evaluated; each predicts one token less than it has.
        tokens: number of predicted tokens.
        precision: dtype of the computation; losses are float32 and summed in float64.
        device: where it ran.
        execution: `streamed`, `sharded` over the devices, or `in-memory`, and why not streamed.
        super_batch, micro_batch, chunk, threads: how it ran.
        out_of_memory: what was halved because memory ran out, a line each time.
        planned_bytes: of tensors on the device (in main memory, on the CPU) at the peak, foreseen before the run.
        planned_parts: what they are.
        measured_bytes: what became of the plan: tensors on the accelerator at the peak; on the CPU, by how much
            private memory grew, with all that the allocator adds.
        peak_host_bytes: resident set of the process at its peak, mapped file pages included.
        peak_host_private_bytes: without those pages, at the peak of the evaluation.
        peak_device_bytes, peak_device_reserved_bytes: tensors on the accelerator at the peak, and memory that its
            allocator held for them; None on the CPU.
        seconds: wall time of the evaluation, without start-up.
        sequences: per-sequence sums.
        provenance: versions, commit, input hashes, settings.
    """

    KIND: ClassVar[str] = "set of metrics"
    FORMAT: ClassVar[int] = 5

    model: Word
    data: Word
    criterion: Word | None
    scope: Word | None
    seed: Count | None
    sparsity: CanonicalSparsity | None
    perturbation: Word | None = None
    perturbation_seed: Count | None = None
    kept: Count | None
    total: Count | None
    parameters: Count
    vocabulary: Positive
    loss: Amount
    perplexity: Annotated[float, Ge(1)] | None
    accuracy: Share
    performance_retention: Amount
    agreement: Share | None = None
    kl_top_k: Amount | None = None
    top_k: Positive | None = None
    protocol: Literal["documents", "wikitext2"] = "documents"
    bos: Literal["each window", "first window", "never"] = "never"
    windows: Positive
    tokens: Positive
    precision: Literal["float32", "bfloat16", "float16"]
    device: Word
    execution: Word
    super_batch: Positive
    micro_batch: Positive
    chunk: Positive
    out_of_memory: list[Word]
    threads: Positive
    planned_bytes: Count
    planned_parts: Mapping[str, Count]
    measured_bytes: int
    peak_host_bytes: Count
    peak_host_private_bytes: Count
    peak_device_bytes: Count | None
    peak_device_reserved_bytes: Count | None
    seconds: Amount
    sequences: SequenceTotals
    provenance: Mapping[str, Any]

    @classmethod
    def head(cls) -> dict[str, Any]:
        """See `Record`; metrics do not say their kind."""
        return {"format": cls.FORMAT}

    def __str__(self) -> str:
        """One line for people."""
        ticket = f"{self.criterion} {self.scope} {self.sparsity}" if self.criterion else "dense"
        perturbed = f" with {self.perturbation}" if self.perturbation else ""
        agreement = "" if self.agreement is None else f", agreement {self.agreement:.4f}, KL {self.kl_top_k:.4f}"
        # Published numbers are perplexities of a protocol and a number of windows.
        published = (
            f"{self.protocol} perplexity {self.perplexity:.4f} over {self.windows} windows, "
            if (self.protocol != "documents" and self.perplexity is not None)
            else ""
        )
        rate = self.tokens / max(self.seconds, 1e-9)
        return (
            f"{self.model} on {self.data}, {ticket}{perturbed}: {published}loss {self.loss:.4f} nats/token, "
            f"accuracy {self.accuracy:.4f}, retention {self.performance_retention:.4f}{agreement} "
            f"({self.seconds:.1f} s, {rate:.0f} tokens/s; "
            f"{memory_line(self.planned_bytes, self.measured_bytes, self.device)})"
        )

    def check_measured_on(self, hashes: Mapping[str, str], where: str) -> None:
        """Raise UserError unless these are metrics of the inputs (checkpoint, sequences) with the given hashes."""
        for what, fingerprint in hashes.items():
            if self.provenance["inputs"].get(what) != fingerprint:
                raise UserError(
                    f"{where}: baseline does not match the {what}; evaluate the dense model on the same {what}"
                )
