"""What an evaluation found, as a small JSON file that says where it comes from."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from ltpipe.runtime.errors import MEND, DamagedFileError, UserError
from ltpipe.runtime.jsonfiles import read_record, write_record

FORMAT = 5


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

    loss_sum: list[float]
    correct: list[int]
    tokens: list[int]
    agree: list[int] | None = None
    kl_sum: list[float] | None = None


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
class Metrics:
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

    model: str
    data: str
    criterion: str | None
    scope: str | None
    seed: int | None
    sparsity: str | None
    perturbation: str | None = None
    perturbation_seed: int | None = None
    kept: int | None
    total: int | None
    parameters: int
    vocabulary: int
    loss: float
    perplexity: float | None
    accuracy: float
    performance_retention: float
    agreement: float | None = None
    kl_top_k: float | None = None
    top_k: int | None = None
    protocol: str = "documents"
    bos: str = "never"
    windows: int
    tokens: int
    precision: str
    device: str
    execution: str
    super_batch: int
    micro_batch: int
    chunk: int
    out_of_memory: list[str]
    threads: int
    planned_bytes: int
    planned_parts: Mapping[str, int]
    measured_bytes: int
    peak_host_bytes: int
    peak_host_private_bytes: int
    peak_device_bytes: int | None
    peak_device_reserved_bytes: int | None
    seconds: float
    sequences: SequenceTotals
    provenance: Mapping[str, Any]

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
                raise UserError(f"{where}: baseline of other {what}; evaluate the dense model on the same {what}")

    def write(self, path: Path) -> None:
        """Write as JSON, floats at full precision."""
        content = {"format": FORMAT, **asdict(self)}
        _check(content, path)
        write_record(path, content)

    @classmethod
    def read(cls, path: Path) -> "Metrics":
        """Read what `write` wrote.

        Raises:
            DamagedFileError: the file does not follow the schema.
        """
        content = read_record(path)
        _check(content, path)
        content.pop("format")
        return cls(**{**content, "sequences": SequenceTotals(**content["sequences"])})


@cache
def _validator() -> Any:
    from jsonschema import Draft202012Validator

    schema = files("ltpipe.evaluation").joinpath("metrics.schema.json").read_text(encoding="utf-8")
    return Draft202012Validator(json.loads(schema))


def _check(content: dict[str, Any], path: Path) -> None:
    for error in _validator().iter_errors(content):
        where = ".".join(str(part) for part in error.absolute_path) or "metrics"
        raise DamagedFileError(f"{path}: {where}: {error.message}; {MEND}")
