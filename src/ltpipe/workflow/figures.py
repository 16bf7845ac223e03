"""Which figures the report of a configuration has."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ltpipe.pruning.scopes import has_own_sparsity
from ltpipe.workflow import grid, studies

TICKETS, MASKS, TRAININGS, COSTS = "Tickets", "Masks", "Trainings", "Time and memory"


@dataclass(frozen=True)
class Drawn:
    """A figure: the stem of its files, and the category of it in Snakemake's own report."""

    name: str
    category: str


def figures(config: dict[str, Any]) -> list[Drawn]:
    """Every figure that there will be something to draw in."""
    return list(_figures(config))


def _figures(config: dict[str, Any]) -> Iterator[Drawn]:
    tickets = grid.tickets(config)
    if tickets:
        yield Drawn("tradeoff", TICKETS)
        if not all(has_own_sparsity(ticket.scope) for ticket in tickets):
            yield Drawn("critical", TICKETS)
        yield Drawn("layers", MASKS)
    if _compared(tickets):
        yield Drawn("overlap", MASKS)
    for name, files in (
        ("levels", studies.records),
        ("connectivity", studies.connectivities),
        ("early_birds", studies.early_birds),
    ):
        if files(config):
            yield Drawn(name, TRAININGS)
    yield Drawn("costs", COSTS)


def _compared(tickets: list[grid.Ticket]) -> bool:
    """Whether two masks of one model and sparsity differ in criterion, scope or seed alone."""
    alike: defaultdict[tuple[str, ...], set[tuple[str, ...]]] = defaultdict(set)
    for ticket in tickets:
        place, drawn = (ticket.model, ticket.sparsity), (ticket.criterion, ticket.seed)
        alike[*place, "scope", ticket.scope].add(drawn)
        alike[*place, "criterion", *drawn].add((ticket.scope,))
    return any(len(masks) > 1 for masks in alike.values())
