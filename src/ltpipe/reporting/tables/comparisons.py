"""One row per pair of tickets of one sparsity."""

from collections.abc import Sequence
from itertools import combinations

from ltpipe.analysis.confidence import bounds, interval, loss_difference
from ltpipe.analysis.samples import Sample
from ltpipe.reporting.cells import percent, ticket_name, value, with_interval, yes_or_no
from ltpipe.reporting.table import Table
from ltpipe.reporting.tables.axes import TEXT, curve_of, pair_of_tickets
from ltpipe.runtime.frames import Columns, Frame, frame, measured, truth
from ltpipe.runtime.progress import track

_PAIR = pair_of_tickets(TEXT)
COLUMNS: Columns = {
    **_PAIR,
    **measured("loss_difference", "loss of ticket a minus that of ticket b, nats/token"),
    "significant": truth("whether the interval excludes 0: the two differ significantly"),
}


def comparisons_table(samples: Sequence[Sample]) -> Frame:
    """Return one row per pair of tickets of the same model, text and sparsity, in the order of the tickets."""
    rows = []
    for sample in samples:
        for a, b in track(list(combinations(sample.tickets, 2)), "comparing", "pair"):
            if a.metrics.sparsity != b.metrics.sparsity:
                continue
            found = interval(loss_difference(a.resampled, b.resampled), sample.sequences)
            rows.append(
                {
                    "model": a.metrics.model,
                    "data": a.metrics.data,
                    "sparsity": float(a.metrics.sparsity or 0),
                    **curve_of(a.metrics, "_a"),
                    **curve_of(b.metrics, "_b"),
                    "loss_difference": a.metrics.loss - b.metrics.loss,
                    **bounds("loss_difference", found),
                    "significant": found.excludes(0.0),
                }
            )
    table = frame(rows, COLUMNS)
    return table.sort_values(["model", "data", "sparsity"], kind="stable", ignore_index=True)


TABLE = Table(
    name="comparisons",
    of="comparisons of tickets",
    row="a pair of tickets of one sparsity",
    columns=COLUMNS,
    key=tuple(_PAIR),
    stage="tables",
    measured=lambda found: comparisons_table(found.samples),
    title="Tickets against tickets",
    note="Loss of the first minus loss of the second, in nats/token, with its paired 95% interval. Two tickets differ "
    "significantly if the interval excludes 0. Each pair is tested by itself: of twenty pairs of equal tickets, about "
    "one looks different.",
    cells={
        "model": value("model"),
        "text": value("data"),
        "sparsity": value("sparsity", percent),
        "first": lambda row: ticket_name(row, "_a"),
        "second": lambda row: ticket_name(row, "_b"),
        "difference": with_interval("loss_difference", "{:+.4f}".format),
        "significant": value("significant", yes_or_no),
    },
)
