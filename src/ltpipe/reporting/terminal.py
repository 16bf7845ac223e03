"""The ticket table in a terminal."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ltpipe.evaluation.metrics import memory_line
from ltpipe.evaluation.quality import WINNING_RETENTION
from ltpipe.reporting.cells import percent, ticket_name
from ltpipe.reporting.critical import estimate_text, losing_text, winning_text
from ltpipe.reporting.ticket_columns import best_tickets, shown_columns, wins, with_baselines
from ltpipe.reporting.verdicts import Verdict, verdicts

# Most terminals are 80 characters wide: show short headings and the most important columns.
TERMINAL: dict[str, dict[str, Any]] = {
    "perplexity": {"title": "ppl"},
    "accuracy": {"title": "acc."},
    "performance_retention": {"show": "{:.3f}".format},
}
PAGE_ONLY = {"kept", "loss_difference", "accuracy_difference", "agreement", "kl"}


ROOM = 200
"""Tickets that a terminal has room for."""


def print_tickets(tickets: pd.DataFrame) -> None:
    """Print the table of tickets on standard output; if there are very many, only the best ones."""
    console = Console()
    shown = best_tickets(tickets, ROOM)
    console.print(summary_table(shown))
    if len(shown) < len(tickets):
        console.print(Text(f"{len(shown)} of {len(tickets):,} tickets, the best at each sparsity"), soft_wrap=True)
    console.print(Text(largest_memory(tickets)), soft_wrap=True)


def print_verdicts(tickets: pd.DataFrame, curves: pd.DataFrame, comparisons: pd.DataFrame) -> None:
    """Print the page's verdict on each model and text in a few lines."""
    console = Console()
    for verdict in verdicts(tickets, curves, comparisons):
        lines = [f"\n{verdict.model} on {verdict.data}", *verdict_lines(verdict)]
        console.print(Text("\n".join(lines)), soft_wrap=True)


def print_page(page: Path) -> None:
    """Print where the page is."""
    Console().print(Text(f"report: {page}"), soft_wrap=True)


def verdict_lines(verdict: Verdict) -> Iterator[str]:
    """Yield a verdict's lines, each a sentence or two."""
    best, standing = verdict.best, verdict.standing
    if verdict.untouched:
        yield f"  {untouched_line(verdict)}"
    if standing == "chance":
        yield (
            f"  no verdict: the dense model (loss {verdict.dense['baseline_loss']:.4f} nats/token) is not "
            f"significantly better than a uniform guess ({verdict.dense['uniform_loss']:.4f})"
        )
        return
    if best is None or standing == "none":
        yield f"  none of the {verdict.evaluated} tickets is a winning ticket"
    else:
        sparsity = percent(best["sparsity"])
        found = f"{ticket_name(best)}, {sparsity}, retention {best['performance_retention']:.3f}"
        yield {
            "uncontrolled": f"  no verdict: no random ticket removes {sparsity}; the sparsest ticket "
            f"that would win: {found}",
            "control": f"  not significantly better than a random mask: {found}",
            "won": f"  sparsest winning ticket: {found}",
        }[standing]
        if verdict.sequences > 1 and not verdict.surely_wins:
            yield f"  its retention does not differ significantly from {WINNING_RETENTION}"
        if verdict.sequences > 1 and verdict.beside:
            others = len(verdict.beside) - 1
            yield f"  no significant difference from {ticket_name(verdict.beside[0])}" + (
                f" and {others} more" if others else ""
            )
    if critical := verdict.critical:
        inside = "" if pd.isna(critical["first_losing_sparsity"]) else f"; estimate: {estimate_text(critical)}"
        yield (
            f"  critical sparsity of {ticket_name(critical)}: last winning {winning_text(critical)}, first losing "
            f"{losing_text(critical)}{inside}"
        )


def untouched_line(verdict: Verdict) -> str:
    """Return the alarm about tickets that prune much and change nothing."""
    return (
        f"alarm: {verdict.untouched} of {verdict.evaluated} tickets prune half of the weights or more and have "
        "exactly the dense model's loss; either these weights were already zero, or the model does not use them"
    )


def largest_memory(tickets: pd.DataFrame) -> str:
    """Return a line with the largest planned and the largest measured peak of tensors."""
    planned, measured = (int(tickets[key].max()) for key in ("planned_bytes", "measured_bytes"))
    return memory_line(planned, measured, "cpu" if (tickets["device"] == "cpu").all() else "")


def summary_table(tickets: pd.DataFrame) -> Table:
    """Return a table of all tickets for a terminal, dense models first, winning retentions in green.

    Args:
        tickets: one row per ticket; loss in nats/token, sparsity and accuracy as fractions.
    """
    columns = [
        replace(column, **TERMINAL.get(column.key, {}))
        for column in shown_columns(tickets)
        if column.key not in PAGE_ONLY
    ]
    shown = {column.key for column in columns}
    names = [str(tickets[key].iloc[0]) for key in ("model", "data") if len(tickets) and key not in shown]
    table = Table(
        # Text, not str: names come from the user and may look like rich's markup.
        title=Text(" on ".join(names)) if names else None,
        caption=f"loss in nats/token; ppl: perplexity; acc.: top-1 accuracy;\n"
        f"retention = dense loss / ticket loss, at least {WINNING_RETENTION} wins; [95% interval]",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=0,
    )
    for column in columns:
        justify: Literal["left", "right"] = "right" if column.numeric else "left"
        # In narrow terminals names wrap; a number must never lose digits.
        table.add_column(column.title, justify=justify, no_wrap=column.numeric, overflow="fold")
    for row in with_baselines(tickets).to_dict("records"):
        dense = row["criterion"] == "dense"
        cells = {column.key: Text(column.cell(row)) for column in columns}
        if dense:
            table.add_section()
        else:
            # Long names appear once, on the dense row above their tickets.
            cells.update(dict.fromkeys(shown & {"model", "data"}, Text()))
            if wins(row):
                cells["performance_retention"].stylize("green")
        table.add_row(*cells.values(), style="dim" if dense else "")
    return table
