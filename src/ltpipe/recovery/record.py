"""What a recovery took, as a small JSON file beside the ticket's new values."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from ltpipe.runtime.records import Amount, Count, Positive, Record, Word


@dataclass(frozen=True)
class RecoveryRecord(Record):
    """What a recovery took.

    Attributes:
        model: name of the model.
        criterion: label of the ticket's criterion, with the recovery.
        scope, seed, sparsity: axes of the ticket.
        mode: what was trained.
        tokens: tokens trained on, repeated ones each time.
        steps: optimizer steps.
        trained: parameters that training changes, without pruned weights; those of the low-rank changes in mode lora.
        changed: weights of the model that may have new values.
        threads: CPU threads.
        device: kind of device.
        seconds: wall time since the recovery was last started.
        peak_host_private_bytes: peak private main memory of the process.
        provenance: versions, commit, input hashes, settings.
    """

    KIND: ClassVar[str] = "recovery record"

    model: Word
    criterion: Word
    scope: Word
    seed: Count | None
    sparsity: Word
    mode: Literal["full", "lora", "norms-and-biases"]
    tokens: Positive
    steps: Positive
    trained: Count
    changed: Count
    threads: Positive
    device: Word
    seconds: Amount
    peak_host_private_bytes: Count
    provenance: Mapping[str, Any]

    def __str__(self) -> str:
        """Summarise the record in one line."""
        return (
            f"{self.model}, {self.criterion} {self.scope} {self.sparsity}: {self.mode}, {self.tokens:,} tokens in "
            f"{self.steps} steps and {self.seconds:.0f} s, {self.trained:,} parameters trained"
        )
