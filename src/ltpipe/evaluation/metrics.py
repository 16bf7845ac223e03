"""The result of an evaluation, as a small JSON file with its provenance."""

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
"""A sparsity as written in file names."""


@dataclass(frozen=True)
class SequenceSums:
    """Per-sequence sums, for paired intervals.

    Attributes:
        loss_sum: summed loss, nats.
        correct: number of tokens predicted correctly.
        tokens: number of tokens predicted.
        agree: number of tokens at which the dense model predicts the same token; None without a comparison.
        kl_sum: summed `kl`, nats; None without a comparison.
    """

    loss_sum: Annotated[list[Amount], MinLen(1)]
    correct: Annotated[list[Count], MinLen(1)]
    tokens: Annotated[list[Count], MinLen(1)]
    agree: Annotated[list[Count], MinLen(1)] | None = None
    kl_sum: Annotated[list[Amount], MinLen(1)] | None = None


def memory_line(planned: int, measured: int, device: str) -> str:
    """Return a line with planned and measured bytes that says what the numbers cover.

    Only an accelerator's allocator counts tensors. On the CPU the whole process is measured, with libraries and
    allocator on top of tensors: some 100 MiB for a small model.
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
        criterion, scope, seed, sparsity: the mask's; None for the dense model. The seed is also None if none was used.
        perturbation: perturbation of the weights, noise or rounding; None for unperturbed weights.
        perturbation_seed: seed of the noise; None without noise.
        kept, total: number of prunable weights kept and in total; None for the dense model.
        parameters: number of parameters of the model, tied ones counted once.
        vocabulary: number of tokens the model chooses from; a uniform guess has a loss of ln(vocabulary).
        loss: nats per token.
        perplexity: exp(loss); None above the range of float64.
        accuracy: fraction of next tokens predicted correctly.
        performance_retention: baseline loss / loss; 1.0 for the dense model.
        agreement: fraction of tokens at which the dense model predicts the same token; None for the dense model, or
            if its predictions were not kept.
        kl: KL divergence of the predictions from the dense model's, over its top-k tokens and all others as one,
            nats per token: a lower bound of that over the vocabulary. None as for `agreement`.
        top_k: the k; for the dense model the number of tokens kept; None if none were kept.
        protocol: how the text became sequences: `documents`, or `wikitext2` as in the literature.
        bos: which sequences begin as the tokenizer begins a text: `each window`, `first window` or `never`.
        num_sequences: number of sequences evaluated; each predicts one token fewer than it has.
        tokens: number of predicted tokens.
        precision: dtype of the computation; losses are float32 and summed in float64.
        device: device it ran on.
        execution: `streamed`, `sharded` over the devices, or `in-memory` with the reason.
        super_batch, micro_batch, chunk, threads: batch sizes and threads it ran with.
        tickets: number of tickets that shared its pass; the memory is that of all of them.
        out_of_memory: each out-of-memory back-off, one line each.
        planned_bytes: planned peak bytes of tensors on the device (in main memory, on the CPU).
        planned_parts: these bytes by what they are for.
        measured_bytes: the measured counterpart: peak bytes of tensors on the accelerator; on the CPU, the growth of
            private memory, including the allocator's overhead.
        peak_host_bytes: peak resident set of the process, including mapped file pages.
        peak_host_private_bytes: the same without those pages, during the evaluation.
        peak_device_bytes, peak_device_reserved_bytes: peak bytes of tensors on the accelerator, and of memory that its
            allocator reserved for them; None on the CPU.
        seconds: wall time of the evaluation, without start-up; an equal share of a pass with other tickets.
        sequence_sums: sums per sequence.
        provenance: versions, commit, input hashes, settings.
    """

    KIND: ClassVar[str] = "set of metrics"
    FORMAT: ClassVar[int] = 7

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
    kl: Amount | None = None
    top_k: Positive | None = None
    protocol: Literal["documents", "wikitext2"] = "documents"
    bos: Literal["each window", "first window", "never"] = "never"
    num_sequences: Positive
    tokens: Positive
    precision: Literal["float32", "bfloat16", "float16"]
    device: Word
    execution: Word
    super_batch: Positive
    micro_batch: Positive
    chunk: Positive
    tickets: Positive
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
    sequence_sums: SequenceSums
    provenance: Mapping[str, Any]

    @classmethod
    def head(cls) -> dict[str, Any]:
        """See `Record`; metrics files do not contain their kind."""
        return {"format": cls.FORMAT}

    def __str__(self) -> str:
        """Return a one-line summary."""
        ticket = f"{self.criterion} {self.scope} {self.sparsity}" if self.criterion else "dense"
        perturbed = f" with {self.perturbation}" if self.perturbation else ""
        agreement = "" if self.agreement is None else f", agreement {self.agreement:.4f}, KL {self.kl:.4f}"
        # Published numbers are perplexities with a protocol and a number of sequences.
        published = (
            f"{self.protocol} perplexity {self.perplexity:.4f} over {self.num_sequences} sequences, "
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
        """Raise UserError unless these metrics belong to the inputs (checkpoint, sequences) with the given hashes."""
        for what, fingerprint in hashes.items():
            if self.provenance["inputs"].get(what) != fingerprint:
                raise UserError(
                    f"{where}: baseline does not match the {what}; evaluate the dense model on the same {what}"
                )
