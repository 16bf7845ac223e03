"""Dense models and their tickets, text by text, resampled together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ltpipe.analysis.confidence import Resampled, resample
from ltpipe.evaluation.metrics import Metrics
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.frames import is_missing

ONCE = "give each cell once; models of two studies go together under different names"
"""How to fix two results of one cell, which would be ambiguous."""
AXES = ("model", "data", "perturbation", "perturbation_seed", "criterion", "scope", "seed", "sparsity")
"""Fields of metrics that identify what was evaluated."""


@dataclass(frozen=True)
class Evaluated:
    """A dense model or a ticket: its measurements, and the same on every resample."""

    metrics: Metrics
    resampled: Resampled


@dataclass(frozen=True)
class Sample:
    """A dense model and its tickets on one text, paired sequence by sequence.

    Tickets are sorted by criterion, scope, seed and sparsity.
    """

    dense: Evaluated
    tickets: tuple[Evaluated, ...]

    @property
    def sequences(self) -> int:
        """Number of sequences that were resampled."""
        return len(self.dense.metrics.sequence_sums.tokens)


def samples(baselines: Sequence[Metrics], tickets: Sequence[Metrics]) -> list[Sample]:
    """Group the tickets of each model and text with their dense model.

    Raises:
        UserError: a ticket's dense model, on the same sequences, is not among the baselines, or a cell of the grid
            appears twice.
    """
    if not tickets or any(ticket.sparsity is None for ticket in tickets):
        raise UserError("tickets: none, or a dense model among them; give metrics of at least one ticket only")
    check_once("baselines", baselines)
    check_once("tickets", tickets)
    dense = {(baseline.model, baseline.data): baseline for baseline in baselines}
    groups: dict[tuple[str, str], list[Metrics]] = {}
    for ticket in sorted(tickets, key=_order):
        baseline = dense.get((ticket.model, ticket.data))
        if baseline is None:
            raise UserError(f"baselines: no metrics of model '{ticket.model}' on text '{ticket.data}'; give them too")
        measured = {what: ticket.provenance["inputs"].get(what) for what in ("checkpoint", "sequences")}
        baseline.check_measured_on(measured, f"{ticket.model} on {ticket.data}")
        groups.setdefault((ticket.model, ticket.data), []).append(ticket)
    return [_sample(dense[key], group) for key, group in groups.items()]


def cell_named(cell: Mapping[str, Any]) -> str:
    """Return a cell of the grid in words, from the values of its axes."""
    return "one cell (" + ", ".join(f"{axis} {value}" for axis, value in cell.items() if not is_missing(value)) + ")"


def check_once(what: str, measured: Sequence[Metrics]) -> None:
    """Raise UserError if a cell appears twice: the two would pass for seeds."""
    found: set[tuple[Any, ...]] = set()
    for metrics in measured:
        cell = {axis: getattr(metrics, axis) for axis in AXES}
        if tuple(cell.values()) in found:
            raise UserError(f"{what}: two metrics of {cell_named(cell)}; {ONCE}")
        found.add(tuple(cell.values()))


def _sample(dense: Metrics, tickets: Sequence[Metrics]) -> Sample:
    measured = [dense, *tickets]
    resampled = resample([metrics.sequence_sums for metrics in measured])
    first, *others = (Evaluated(*pair) for pair in zip(measured, resampled, strict=True))
    return Sample(first, tuple(others))


def _order(ticket: Metrics) -> tuple[str, str, str, str, int, float]:
    seed = -1 if ticket.seed is None else ticket.seed
    return ticket.model, ticket.data, str(ticket.criterion), str(ticket.scope), seed, float(ticket.sparsity or 0)
