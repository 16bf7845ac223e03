"""What a model or a ticket answers to the requests of a task, as a JSON file."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from annotated_types import Le

from ltpipe.evaluation.metrics import CanonicalSparsity
from ltpipe.runtime.records import Amount, Count, Positive, Record, Word


@dataclass(frozen=True, kw_only=True)
class Responses(Record):
    """A model's responses to the requests of a task, in their order.

    Attributes:
        model, task: names in the configuration.
        criterion, scope, seed, sparsity: the mask's; None for the dense model. The seed is also None if none was used.
        loglikelihoods: of all predicted tokens of a request, nats; 0.0 for requests to generate.
        greedy: whether each predicted token of a request is the most likely one; False for requests to generate.
        texts: generated texts of the requests to generate, in order.
        tokens: number of tokens that went through the model, without padding.
        precision: dtype of the computation; log-likelihoods are float32, summed in float64.
        device: device it ran on.
        execution: as in metrics.
        threads: CPU threads.
        out_of_memory: each out-of-memory back-off, one line each.
        peak_host_private_bytes: peak private memory of the process.
        peak_device_bytes: peak bytes of tensors on the accelerator; None on the CPU.
        seconds: wall time, without start-up.
        provenance: versions, commit, input hashes, settings.
    """

    KIND: ClassVar[str] = "set of responses"
    FORMAT: ClassVar[int] = 1

    model: Word
    task: Word
    criterion: Word | None
    scope: Word | None
    seed: Count | None
    sparsity: CanonicalSparsity | None
    loglikelihoods: list[Annotated[float, Le(0)]]
    greedy: list[bool]
    texts: list[str]
    tokens: Count
    precision: Word
    device: Word
    execution: Word
    threads: Positive
    out_of_memory: list[Word]
    peak_host_private_bytes: Count
    peak_device_bytes: Count | None
    seconds: Amount
    provenance: Mapping[str, Any]

    def __str__(self) -> str:
        """Return a one-line summary."""
        ticket = f"{self.criterion} {self.scope} {self.sparsity}" if self.criterion else "dense"
        rate = len(self.loglikelihoods) / max(self.seconds, 1e-9)
        return (
            f"{self.model} on {self.task}, {ticket}: {len(self.loglikelihoods)} requests "
            f"({self.seconds:.1f} s, {rate:.1f} requests/s)"
        )
