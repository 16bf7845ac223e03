"""The columns of the ticket table as people see them: headings, definitions, and how values read."""

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
    """Show a perplexity (exp of nats/token): digits as long as they say something, then its magnitude."""
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
        definition: what the value is, with its unit, as a sentence for a reader who sees it first.
        show: turns one value that is present into text; text as it is for a column of words.
        unit: unit to put beside the heading; empty where the value shows it or has none.
        numeric: whether values are aligned and sorted as numbers.
        interval: whether the frame has bounds of it, in columns with `_low` and `_high` at their end.
    """

    key: str
    title: str
    definition: str
    show: Callable[[Any], str] = str
    unit: str = ""
    numeric: bool = True
    interval: bool = False


COLUMNS = (
    Column("study", "study", "The study, by its folder.", numeric=False),
    Column("model", "model", "The language model whose weights are masked.", numeric=False),
    Column("data", "text", "The text that the tickets are evaluated on.", numeric=False),
    Column(
        "criterion",
        "criterion",
        "What ranks the weights; the lowest ranked are pruned. “dense” is the model without a mask.",
        numeric=False,
    ),
    Column(
        "scope",
        "scope",
        "Which weights are ranked against each other: all (global) or those of each layer (layer).",
        numeric=False,
    ),
    Column("seed", "seed", "Seed of a criterion that draws at random; none for deterministic criteria."),
    Column("sparsity", "sparsity", "Requested share of the prunable weights, or units, set to zero.", percent),
    Column("kept", "kept", "Prunable weights that stay, as a count.", "{:,}".format),
    Column(
        "loss",
        "loss",
        "Mean cross-entropy of the next token over all predicted tokens, in nats/token; lower is better.",
        "{:.4f}".format,
        "nats/token",
    ),
    Column("perplexity", "perplexity", "exp(loss), without unit; lower is better.", perplexity),
    Column(
        "accuracy",
        "accuracy",
        "Share of predicted tokens whose most probable prediction is right (top-1); higher is better.",
        lambda value: percent(value, 2),
    ),
    Column(
        "performance_retention",
        "retention",
        "Dense loss / ticket loss, without unit: 1 is no loss of performance. "
        f"A ticket with at least {WINNING_RETENTION} is a winning ticket. In brackets its 95% interval.",
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
        "Share of predicted tokens whose most probable prediction is that of the dense model; higher is better.",
        lambda value: percent(value, 2),
        interval=True,
    ),
    Column(
        "kl_top_k",
        "KL",
        "Kullback-Leibler divergence from the dense model's predictions, over its likeliest tokens and all others "
        "as one (a lower bound), in nats/token; lower is better.",
        "{:.4f}".format,
        "nats/token",
        interval=True,
    ),
)

DIFFERENCES = (
    "performance_retention_low", "performance_retention_high",
    *(
        f"{key}{bound}"
        for key in ("loss_difference", "accuracy_difference", "agreement", "kl_top_k")
        for bound in ("", "_low", "_high")
    ),
)  # fmt: skip
"""What a dense model, compared with itself, has none of."""


def cell(column: Column, row: Mapping[str, Any]) -> str:
    """Text of one table cell, with the interval where there is one; a dash where there is no value."""
    value = row[column.key]
    if is_missing(value):
        return MISSING
    low, high = (row[f"{column.key}_{bound}"] if column.interval else None for bound in ("low", "high"))
    return column.show(value) if is_missing(low) else f"{column.show(value)} [{column.show(low)}, {column.show(high)}]"


def wins(row: Mapping[str, Any]) -> bool:
    """Whether a row is of a winning ticket, of a dense model that is told apart from a uniform guess."""
    return (
        row["criterion"] != "dense"
        and row["performance_retention"] >= WINNING_RETENTION
        and beats_chance(row["baseline_loss"], row["baseline_loss_high"], row["uniform_loss"])
    )


def shown_columns(tickets: Frame) -> list[Column]:
    """Columns that say something: model and text if there are several, others if any ticket has a value."""
    values, least = tickets.nunique(), {"model": 2, "data": 2}
    return [column for column in COLUMNS if values.get(column.key, 0) >= least.get(column.key, 1)]


def places(tickets: Frame) -> list[str]:
    """What tells the models and texts of a table apart: of several studies, the study too."""
    return [axis for axis in ("study", "model", "data") if axis in tickets]


def best_tickets(tickets: Frame, room: int) -> Frame:
    """Tickets that there is room to show.

    All of them; if they are more than that, of each model, text and sparsity the one that retains most, and of those
    the first.
    """
    if len(tickets) <= room:
        return tickets
    order = tickets.sort_values("performance_retention", ascending=False, kind="stable")
    best = order.drop_duplicates([*places(tickets), "sparsity"])
    return best.sort_values([*places(tickets), "sparsity"], kind="stable", ignore_index=True).head(room)


def with_baselines(tickets: Frame) -> Frame:
    """Tickets by model, text, sparsity, criterion, scope and seed, the dense model of each text first.

    Tickets of one model and text that were compared with different baselines (say of another precision) get a
    dense row for each.
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
