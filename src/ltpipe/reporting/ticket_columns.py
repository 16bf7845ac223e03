"""The table of tickets as readers see it: headings, definitions and formats of its columns, and which rows it has."""

from dataclasses import dataclass

from ltpipe.evaluation.quality import WINNING_RETENTION, beats_chance
from ltpipe.reporting.cells import Row, Show, percent, points, value, with_interval
from ltpipe.runtime.frames import Frame


def perplexity(value: float) -> str:
    """Show a perplexity (exp of nats/token), with fewer digits the larger it is."""
    return f"{value:,.{2 if value < 1e4 else 0}f}" if value < 1e6 else f"{value:.1e}"


@dataclass(frozen=True)
class TicketColumn:
    """One column of the ticket table.

    Attributes:
        key: column of the tickets frame.
        title: heading.
        definition: a sentence that defines the value, with its unit, for a new reader.
        show: formats a present value.
        unit: unit beside the heading; empty if the formatted value shows it or there is none.
        numeric: whether values are aligned and sorted as numbers.
        interval: whether the frame has interval bounds, in columns that end in `_low` and `_high`.
    """

    key: str
    title: str
    definition: str
    show: Show = str
    unit: str = ""
    numeric: bool = True
    interval: bool = False

    def cell(self, row: Row) -> str:
        """Return the text of a cell, with the interval if there is one; a dash if there is no value."""
        return (with_interval if self.interval else value)(self.key, self.show)(row)


TICKET_COLUMNS = (
    TicketColumn("study", "study", "Folder name of the study.", numeric=False),
    TicketColumn("model", "model", "The language model whose weights are masked.", numeric=False),
    TicketColumn("data", "text", "The text that the tickets are evaluated on.", numeric=False),
    TicketColumn(
        "criterion",
        "criterion",
        "What ranks the weights; the lowest-ranked are pruned. “dense” is the model without a mask.",
        numeric=False,
    ),
    TicketColumn(
        "scope",
        "scope",
        "Which weights are ranked against each other: all (global) or those of each weight tensor (layer).",
        numeric=False,
    ),
    TicketColumn("seed", "seed", "Seed of a stochastic criterion; none for deterministic criteria."),
    TicketColumn(
        "sparsity", "sparsity", "Requested fraction of the prunable weights, or units, to set to zero.", percent
    ),
    TicketColumn("kept", "kept", "Number of prunable weights kept.", "{:,}".format),
    TicketColumn(
        "loss",
        "loss",
        "Mean cross-entropy of next-token prediction over all predicted tokens, in nats/token; lower is better.",
        "{:.4f}".format,
        "nats/token",
    ),
    TicketColumn("perplexity", "perplexity", "exp(loss), dimensionless; lower is better.", perplexity),
    TicketColumn(
        "accuracy",
        "accuracy",
        "Fraction of predicted tokens whose most probable prediction is correct (top-1); higher is better.",
        "{:.2%}".format,
    ),
    TicketColumn(
        "performance_retention",
        "retention",
        "Dense loss / ticket loss, dimensionless: 1 means no loss of performance. "
        f"A ticket with at least {WINNING_RETENTION} is a winning ticket. Brackets contain the 95% interval.",
        "{:.4f}".format,
        interval=True,
    ),
    TicketColumn(
        "loss_difference",
        "loss − dense",
        "Loss of the ticket minus that of the dense model, in nats/token, with its paired 95% interval.",
        "{:+.4f}".format,
        "nats/token",
        interval=True,
    ),
    TicketColumn(
        "accuracy_difference",
        "accuracy − dense",
        "Accuracy of the ticket minus that of the dense model, in percentage points, with its paired 95% interval.",
        points,
        "points",
        interval=True,
    ),
    TicketColumn(
        "agreement",
        "agreement",
        "Fraction of predicted tokens whose most probable prediction is the dense model's; higher is better.",
        "{:.2%}".format,
        interval=True,
    ),
    TicketColumn(
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


def wins(row: Row) -> bool:
    """Return whether a row is a winning ticket of a dense model that is significantly better than a uniform guess."""
    return (
        row["criterion"] != "dense"
        and row["performance_retention"] >= WINNING_RETENTION
        and beats_chance(row["baseline_loss"], row["baseline_loss_high"], row["uniform_loss"])
    )


def shown_columns(tickets: Frame) -> list[TicketColumn]:
    """Return the columns worth showing: model and text if there are several, others if any ticket has a value."""
    values, least = tickets.nunique(), {"model": 2, "data": 2}
    return [column for column in TICKET_COLUMNS if values.get(column.key, 0) >= least.get(column.key, 1)]


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
