"""The same tickets of several models, by the size of the models: one row per ticket that at least two of them have."""

from ltpipe.reporting.cells import percent, ticket_name, value, with_interval
from ltpipe.reporting.table import Table
from ltpipe.reporting.tables.axes import CURVE, SPARSITY
from ltpipe.reporting.ticket_columns import perplexity
from ltpipe.runtime.frames import Columns, Frame, bounds_of, count, number, word

_CELL: Columns = {
    "data": word("name of the text that they are evaluated on, with @ and the name of the settings for evaluating"),
    **CURVE,
    **SPARSITY,
}
COLUMNS: Columns = {
    **_CELL,
    "model": word("name of the model"),
    "parameters": count("all weights of the model"),
    "baseline_perplexity": number("perplexity of the dense model"),
    "perplexity": number("perplexity of the ticket"),
    "loss_difference": number("loss of the ticket minus that of the dense model, nats/token"),
    **bounds_of("loss_difference"),
    "performance_retention": number("dense loss / ticket loss"),
    **bounds_of("performance_retention"),
}


def models_table(tickets: Frame) -> Frame:
    """Return the tickets of cells that several models have, the smallest model of each cell first."""
    several = tickets.groupby(list(_CELL), dropna=False)["model"].transform("nunique") > 1
    rows = tickets.loc[several, list(COLUMNS)]
    return rows.sort_values([*_CELL, "parameters", "model"], kind="stable", ignore_index=True)


TABLE = Table(
    name="models",
    of="tickets of several models",
    row="a ticket that several models have",
    columns=COLUMNS,
    needs="several models",
    key=(*_CELL, "model"),
    derived=lambda tables: models_table(tables["tickets"]),
    title="Across models",
    note="The same criterion, scope and sparsity on models of different sizes. Each difference is from the model's own "
    "dense evaluation, with its paired 95% interval. Losses per token are not comparable between models with different "
    "tokenizers, differences from the dense model are closer to that.",
    figure="models",
    category="Tickets",
    cells={
        "text": value("data"),
        "ticket": ticket_name,
        "sparsity": value("sparsity", percent),
        "model": value("model"),
        "parameters": value("parameters", "{:,}".format),
        "dense perplexity": value("baseline_perplexity", perplexity),
        "perplexity": value("perplexity", perplexity),
        "loss − dense": with_interval("loss_difference", "{:+.4f}".format),
        "retention": with_interval("performance_retention", "{:.4f}".format),
    },
)
