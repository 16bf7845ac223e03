"""The verdict on the tickets, and the report as one self-contained HTML page."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from ltpipe.evaluation.quality import WINNING_RETENTION
from ltpipe.reporting.columns import COLUMNS, best_tickets, cell, shown_columns, with_baselines
from ltpipe.reporting.figures import PANELS
from ltpipe.reporting.sections import SHOWN, Picture, Section

MEASURED_ON = (
    "model", "data", "tokens", "sequences", "precision", "device", "execution", "total", "parameters",
)  # fmt: skip


@dataclass(frozen=True)
class Ticket:
    """One evaluated ticket: losses in nats/token; sparsity, accuracies and retention as fractions."""

    criterion: str
    scope: str
    seed: int | None
    sparsity: float
    kept: int
    total: int
    loss: float
    perplexity: float
    accuracy: float
    performance_retention: float
    performance_retention_low: float
    performance_retention_high: float
    baseline_loss: float
    baseline_perplexity: float
    baseline_accuracy: float


@dataclass(frozen=True)
class Verdict:
    """What the tickets of one model and text show.

    Attributes:
        model: name of the model.
        data: name of the text.
        evaluated: number of tickets.
        sparsest: highest sparsity (fraction) of any ticket, winning or not.
        winner: the sparsest winning ticket, of several the one that retains most; None if there is none.
        seeds: number of tickets that differ from the winner at most by their seed (0 without a winner).
        seeds_winning: how many of those are winning tickets.
        randoms: number of random tickets at the winner's sparsity, the winner aside.
        random: of those the one that retains most; None if there is none.
        closest: the ticket that retains most; None if none removes weights and has a loss that is a number.
    """

    model: str
    data: str
    evaluated: int
    sparsest: float
    winner: Ticket | None
    seeds: int
    seeds_winning: int
    randoms: int
    random: Ticket | None
    closest: Ticket | None


def _wins(ticket: Ticket) -> bool:
    return ticket.performance_retention >= WINNING_RETENTION


def _preference(ticket: Ticket) -> tuple[float, bool, str, str, int]:
    """Sort key of tickets: most retention first; among equals those not random, then by name and seed."""
    seed = -1 if ticket.seed is None else ticket.seed
    return -ticket.performance_retention, ticket.criterion == "random", ticket.criterion, ticket.scope, seed


def _ticket(row: dict[str, Any]) -> Ticket:
    values = {field.name: row[field.name] for field in fields(Ticket)}
    return Ticket(**{**values, "seed": None if pd.isna(row["seed"]) else int(row["seed"])})


def _verdict(model: str, data: str, rows: pd.DataFrame) -> Verdict:
    # A loss that is no number has no place in an order; a mask that removes nothing shows nothing.
    sound = rows[rows["performance_retention"].notna() & (rows["kept"] < rows["total"])]
    tickets = sorted(map(_ticket, sound.to_dict("records")), key=_preference)
    winner = min(filter(_wins, tickets), key=lambda ticket: -ticket.sparsity, default=None)
    alike = [
        ticket
        for ticket in tickets
        if winner
        and (ticket.criterion, ticket.scope, ticket.sparsity) == (winner.criterion, winner.scope, winner.sparsity)
    ]
    randoms = [
        ticket
        for ticket in tickets
        if winner and ticket.criterion == "random" and ticket.sparsity == winner.sparsity and ticket != winner
    ]
    return Verdict(
        model=model,
        data=data,
        evaluated=len(rows),
        sparsest=float(rows["sparsity"].max()),
        winner=winner,
        seeds=len(alike),
        seeds_winning=sum(map(_wins, alike)),
        randoms=len(randoms),
        random=randoms[0] if randoms else None,
        closest=tickets[0] if tickets else None,
    )


def verdicts(tickets: pd.DataFrame) -> list[Verdict]:
    """Judge the tickets of each model and text, by model and text."""
    return [_verdict(model, data, rows) for (model, data), rows in tickets.groupby(["model", "data"])]


FIGURE = (
    "Loss in nats per token and retention against sparsity, one line for each criterion and scope; the table below has "
    "the same numbers."
)


def render_page(
    tickets: pd.DataFrame,
    figure_svg: str,
    provenance: dict[str, str],
    sections: Sequence[Section] = (),
    studies: Sequence[str] = (),
) -> str:
    """Render the report as one HTML page that asks for nothing else.

    Args:
        tickets: one row a ticket; losses in nats/token, fractions as 0..1, memory in bytes, times in seconds.
        figure_svg: the trade-off figure as an SVG document; empty for none.
        provenance: what the report was made from and with, as names and values; empty for none.
        sections: further tables.
        studies: names of the studies that are trained.
    """
    shown = best_tickets(tickets, SHOWN)
    environment = Environment(
        loader=PackageLoader("ltpipe", "reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # {{ value | loss }} shows any loss as the table does.
    environment.filters.update({column.key: column.show for column in COLUMNS})
    return environment.get_template("page.html").render(
        names=[*sorted(tickets["model"].unique()), *studies],
        verdicts=verdicts(tickets),
        winning=WINNING_RETENTION,
        figure=Picture(figure_svg, FIGURE) if figure_svg else None,
        columns=shown_columns(tickets),
        rows=with_baselines(shown).to_dict("records") if len(shown) else [],
        shown=len(shown),
        evaluated=len(tickets),
        panels=PANELS,
        drawn=len(tickets[["model", "data"]].drop_duplicates()),
        cell=cell,
        missing=pd.isna,
        measured=tickets[list(MEASURED_ON)].drop_duplicates().to_dict("records"),
        provenance=provenance,
        sections=sections,
    )
