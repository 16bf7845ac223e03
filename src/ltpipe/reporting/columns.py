"""The columns of the ticket table as readers see them: headings, definitions and formats."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ltpipe.evaluation.quality import WINNING_RETENTION, beats_chance
from ltpipe.runtime.frames import Frame, is_missing

MISSING = "–"


def percent(value: float, decimals: int | None = None) -> str:
    """Show a fraction (0..1) in percent, with as many decimals as it has unless `decimals` says how many."""
    return f"{100 * value:.8g}%" if decimals is None else f"{100 * value:.{decimals}f}%"


def perplexity(value: float) -> str:
    """Show a perplexity (exp of nats/token), with fewer digits the larger it is."""
    return f"{value:,.{2 if value < 1e4 else 0}f}" if value < 1e6 else f"{value:.1e}"


def short_count(value: int) -> str:
    """Show a count with three or four digits and K, M or B (10^3, 10^6, 10^9)."""
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if value >= size:
            return f"{value / size:.1f}{letter}"
    return str(value)


@dataclass(frozen=True)
class Column:
    """One column of the ticket table.

    Attributes:
        key: column of the tickets frame.
        title: heading.
        definition: a sentence that defines the value, with its unit, for a new reader.
        show: function that formats a present value; `str` for words.
        unit: unit beside the heading; empty if the formatted value shows it or there is none.
        numeric: whether values are aligned and sorted as numbers.
        interval: whether the frame has interval bounds, in columns that end in `_low` and `_high`.
    """

    key: str
    title: str
    definition: str
    show: Callable[[Any], str] = str
    unit: str = ""
    numeric: bool = True
    interval: bool = False


COLUMNS = (
    Column("study", "study", "Folder name of the study.", numeric=False),
    Column("model", "model", "The language model whose weights are masked.", numeric=False),
    Column("data", "text", "The text that the tickets are evaluated on.", numeric=False),
    Column(
        "criterion",
        "criterion",
        "What ranks the weights; the lowest-ranked are pruned. “dense” is the model without a mask.",
        numeric=False,
    ),
    Column(
        "scope",
        "scope",
        "Which weights are ranked against each other: all (global) or those of each weight tensor (layer).",
        numeric=False,
    ),
    Column("seed", "seed", "Seed of a stochastic criterion; none for deterministic criteria."),
    Column("sparsity", "sparsity", "Requested fraction of the prunable weights, or units, to set to zero.", percent),
    Column("kept", "kept", "Number of prunable weights kept.", "{:,}".format),
    Column(
        "loss",
        "loss",
        "Mean cross-entropy of next-token prediction over all predicted tokens, in nats/token; lower is better.",
        "{:.4f}".format,
        "nats/token",
    ),
    Column("perplexity", "perplexity", "exp(loss), dimensionless; lower is better.", perplexity),
    Column(
        "accuracy",
        "accuracy",
        "Fraction of predicted tokens whose most probable prediction is correct (top-1); higher is better.",
        lambda value: percent(value, 2),
    ),
    Column(
        "performance_retention",
        "retention",
        "Dense loss / ticket loss, dimensionless: 1 means no loss of performance. "
        f"A ticket with at least {WINNING_RETENTION} is a winning ticket. Brackets contain the 95% interval.",
        "{:.4f}".format,
        interval=True,
    ),
    Column(
        "loss_difference",
        "loss − dense",
        "Loss of the ticket minus that of the dense model, in nats/token, with its paired 95% interval.",
        "{:+.4f}".format,
        "nats/token",
        interval=True,
    ),
    Column(
        "accuracy_difference",
        "accuracy − dense",
        "Accuracy of the ticket minus that of the dense model, in percentage points, with its paired 95% interval.",
        lambda value: f"{100 * value:+.2f}",
        "points",
        interval=True,
    ),
    Column(
        "agreement",
        "agreement",
        "Fraction of predicted tokens whose most probable prediction is the dense model's; higher is better.",
        lambda value: percent(value, 2),
        interval=True,
    ),
    Column(
        "kl",
        "KL",
        "KL divergence from the dense model's predictions, over its top-k tokens and all others taken as one (a lower "
        "bound), in nats/token; lower is better.",
        "{:.4f}".format,
        "nats/token",
        interval=True,
    ),
)

DIFFERENCES = (
    "performance_retention_low", "performance_retention_high",
    *(
        f"{key}{bound}"
        for key in ("loss_difference", "accuracy_difference", "agreement", "kl")
        for bound in ("", "_low", "_high")
    ),
)  # fmt: skip
"""Columns that a dense model lacks, since it would be compared with itself."""


def cell(column: Column, row: Mapping[str, Any]) -> str:
    """Return the text of a table cell, with the interval if there is one; a dash if there is no value."""
    value = row[column.key]
    if is_missing(value):
        return MISSING
    low, high = (row[f"{column.key}_{bound}"] if column.interval else None for bound in ("low", "high"))
    return column.show(value) if is_missing(low) else f"{column.show(value)} [{column.show(low)}, {column.show(high)}]"


def wins(row: Mapping[str, Any]) -> bool:
    """Return whether a row is a winning ticket of a dense model that is significantly better than a uniform guess."""
    return (
        row["criterion"] != "dense"
        and row["performance_retention"] >= WINNING_RETENTION
        and beats_chance(row["baseline_loss"], row["baseline_loss_high"], row["uniform_loss"])
    )


def shown_columns(tickets: Frame) -> list[Column]:
    """Return the columns worth showing: model and text if there are several, others if any ticket has a value."""
    values, least = tickets.nunique(), {"model": 2, "data": 2}
    return [column for column in COLUMNS if values.get(column.key, 0) >= least.get(column.key, 1)]


def places(tickets: Frame) -> list[str]:
    """Return the columns that identify a model and text in a table, with the study if the table has several."""
    return [axis for axis in ("study", "model", "data") if axis in tickets]


def best_tickets(tickets: Frame, room: int) -> Frame:
    """Return the tickets that there is room to show.

    If not all fit, these are the first of the tickets with the highest retention for each model, text and sparsity.
    """
    if len(tickets) <= room:
        return tickets
    order = tickets.sort_values("performance_retention", ascending=False, kind="stable")
    best = order.drop_duplicates([*places(tickets), "sparsity"])
    return best.sort_values([*places(tickets), "sparsity"], kind="stable", ignore_index=True).head(room)


def with_baselines(tickets: Frame) -> Frame:
    """Sort tickets by model, text, sparsity, criterion, scope and seed, the dense model of each text first.

    Tickets of one model and text that were compared with several baselines (of different precision, for example) get
    a dense row for each.
    """
    import pandas as pd

    dense = tickets.drop_duplicates([*places(tickets), "baseline_loss"]).assign(
        criterion="dense",
        scope=pd.NA,
        seed=pd.NA,
        sparsity=0.0,
        kept=lambda frame: frame["total"],
        performance_retention=1.0,
        **dict.fromkeys(DIFFERENCES, pd.NA),
        **{key: lambda frame, key=key: frame[f"baseline_{key}"] for key in ("loss", "perplexity", "accuracy")},
    )
    ordered = tickets.sort_values(["sparsity", "criterion", "scope", "seed"], kind="stable")
    rows = pd.concat([dense.astype(object), ordered.astype(object)], ignore_index=True)
    return rows.sort_values(places(tickets), kind="stable", ignore_index=True)
