"""The result of a simulation of iterative magnitude pruning, as a small JSON file."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ltpipe.runtime.records import Record

BASELINE_BATCHES, TICKET_BATCHES = 10, 5
"""Most batches that the dense model is measured on, and a ticket (the first of them)."""

SIMULATION = (
    "simulation: nothing was trained. Each ticket is the given model, pruned once to that sparsity; tickets of full "
    "iterative magnitude pruning, which trains and rewinds in every iteration, are usually better."
)


@dataclass(frozen=True)
class Iteration:
    """One ticket of a simulation.

    Attributes:
        iteration: number of the iteration, from 1.
        sparsity: sparsity in the schedule.
        kept, total: number of prunable weights kept and in total.
        loss: nats/token on the ticket batches.
        accuracy: fraction of their tokens predicted correctly.
        performance_retention: dense loss on the same batches / loss.
        winning: whether the retention is at least 0.9.
        peak_host_private_bytes: peak private memory of the process during its evaluation; it does not grow from one
            iteration to the next.
        peak_device_bytes: peak bytes of tensors on the accelerator so far; None on the CPU.
    """

    iteration: int
    sparsity: float
    kept: int
    total: int
    loss: float
    accuracy: float
    performance_retention: float
    winning: bool
    peak_host_private_bytes: int
    peak_device_bytes: int | None


@dataclass(frozen=True)
class Simulation(Record):
    """The result of a simulation of iterative magnitude pruning.

    Attributes:
        model, data: names in the configuration.
        baseline_loss, baseline_accuracy: the dense model's, on `baseline_sequences` sequences.
        ticket_sequences: number of these sequences, from the first on, that tickets were measured on.
        iterations: the tickets, in the order of the schedule.
        best: iteration of the sparsest winning ticket or, if none wins, of the one with the best retention.
        provenance: versions, input hashes, settings.
        note: explanation of a simulation.
    """

    KIND: ClassVar[str] = "simulation of iterative pruning"

    model: str
    data: str
    baseline_loss: float
    baseline_accuracy: float
    baseline_sequences: int
    ticket_sequences: int
    iterations: list[Iteration]
    best: int
    provenance: dict[str, Any]
    note: str = SIMULATION
