"""What a simulation of iterative magnitude pruning found, as a small JSON file."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ltpipe.runtime.records import Record

BASELINE_BATCHES, TICKET_BATCHES = 10, 5
"""The dense model is measured on at most so many batches, a ticket on the first few of them."""

SIMULATION = (
    "simulation: nothing was trained. Each ticket is the given model, pruned once to that sparsity; tickets of full "
    "iterative magnitude pruning, which trains and rewinds in every iteration, are usually better."
)


@dataclass(frozen=True)
class Iteration:
    """One ticket of a simulation.

    Attributes:
        iteration: from 1.
        sparsity: as the schedule has it.
        kept, total: prunable weights.
        loss: nats/token on the ticket batches.
        accuracy: fraction of their tokens predicted right.
        performance_retention: dense loss on the same batches / loss.
        winning: whether that is at least 0.9.
        peak_host_private_bytes: of the process while it was evaluated; does not grow from one to the next.
        peak_device_bytes: tensors on the accelerator at their peak so far; None on the CPU.
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
    """What a simulation of iterative magnitude pruning found.

    Attributes:
        model, data: names in the configuration.
        baseline_loss, baseline_accuracy: of the dense model, on `baseline_sequences` sequences.
        ticket_sequences: how many of them, the first, tickets were measured on.
        iterations: in the order of the schedule.
        best: iteration of the sparsest winning ticket, or if none wins of the one that retains most.
        provenance: versions, input hashes, settings.
        note: what a simulation is.
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
