"""One row for all tickets that differ only in sparsity: where they stop winning.

The critical sparsity lies between the last winning ticket (the dense model, of sparsity 0, if all lose) and the first
losing one (missing if all win). The estimate is interpolated between the two. Its bounds are over samples of text and
do not include the error of interpolating. Estimate and bounds are missing where they reach the largest sparsity.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np

from ltpipe.analysis.confidence import bounds, retention
from ltpipe.analysis.curves import Curve
from ltpipe.analysis.samples import Evaluated, Sample
from ltpipe.pruning.scopes import has_own_sparsity
from ltpipe.reporting.cells import percent, ticket_name, value, with_interval
from ltpipe.reporting.critical import NOTE, estimate_text, losing_text, winning_text
from ltpipe.reporting.table import Table
from ltpipe.reporting.tables.axes import CURVE, SETTINGS, TEXT, curve_of, settings_in
from ltpipe.runtime.frames import Columns, Frame, count, frame, measured, number, truth
from ltpipe.runtime.labels import recovery_of

_DISTINCT = "whether the interval of its retention excludes the winning threshold"
COLUMNS: Columns = {
    **TEXT,
    **CURVE,
    **SETTINGS,
    "total": count("prunable weights"),
    "largest_sparsity": number("sparsity of the sparsest ticket"),
    "last_winning_sparsity": number("sparsity of the last winning ticket; 0, the dense model, if all lose"),
    "last_winning_kept": count("weights that it keeps"),
    "last_winning_significant": truth(_DISTINCT),
    "first_losing_sparsity": number("sparsity of the first losing ticket; missing if all win"),
    "first_losing_kept": count("weights that it keeps"),
    "first_losing_significant": truth(_DISTINCT),
    "crossings": count("how often retention falls below the winning threshold"),
    **measured("critical_sparsity_estimate", "interpolated between the two; missing beyond the largest sparsity"),
    **measured("area", "area under retention up to the largest sparsity"),
}


def curves_table(samples: Sequence[Sample]) -> Frame:
    """Return one row for all tickets that differ only in sparsity: where they stop winning, and the area under them.

    A scope with its own sparsity gives no curve, nor does the dense model that a recovery trained.
    """
    rows = []
    for sample in samples:
        for _, group in groupby(sample.tickets, key=lambda ticket: tuple(curve_of(ticket.metrics).values())):
            tickets = list(group)
            last = tickets[-1].metrics
            control = recovery_of(str(last.criterion)) and float(last.sparsity or 0) == 0
            if has_own_sparsity(str(last.scope)) or control:
                continue
            curve = Curve(
                sparsities=np.array([float(ticket.metrics.sparsity or 0) for ticket in tickets]),
                retentions=np.array([ticket.metrics.performance_retention for ticket in tickets]),
                resampled=np.stack([retention(ticket.resampled, sample.dense.resampled) for ticket in tickets], axis=1),
                sequences=sample.sequences,
            )
            low, high = curve.estimate_interval
            rows.append(
                {
                    "model": sample.dense.metrics.model,
                    "data": sample.dense.metrics.data,
                    **curve_of(tickets[0].metrics),
                    **settings_in(tickets[0].metrics),
                    "total": tickets[0].metrics.total,
                    "largest_sparsity": curve.sparsities[-1],
                    "last_winning_sparsity": 0.0,  # the dense model, unless a ticket wins
                    **_end("last_winning", curve, tickets, curve.last_winning),
                    **_end("first_losing", curve, tickets, curve.first_losing),
                    "crossings": curve.crossings,
                    "critical_sparsity_estimate": curve.critical_estimate,
                    "critical_sparsity_estimate_low": low,
                    "critical_sparsity_estimate_high": high,
                    "area": curve.area,
                    **bounds("area", curve.area_interval),
                }
            )
    return frame(rows, COLUMNS)


def _end(name: str, curve: Curve, tickets: Sequence[Evaluated], index: int | None) -> dict[str, Any]:
    """Return one end of a curve's bracket."""
    if index is None:
        return {}
    return {
        f"{name}_sparsity": curve.sparsities[index],
        f"{name}_kept": tickets[index].metrics.kept,
        f"{name}_significant": curve.is_significant(index),
    }


TABLE = Table(
    name="curves",
    of="curves over sparsity",
    row="all tickets that differ only in sparsity",
    columns=COLUMNS,
    key=(*TEXT, *CURVE),
    stage="tables",
    measured=lambda found: curves_table(found.samples),
    title="Critical sparsity",
    note=f"{NOTE} Area: the area under straight lines from the dense model to the largest sparsity, with its interval "
    "over text; it equals the largest sparsity if nothing is lost.",
    cells={
        "model": value("model"),
        "text": value("data"),
        "tickets": ticket_name,
        "last winning": winning_text,
        "first losing": losing_text,
        "estimate": estimate_text,
        "times it falls": value("crossings"),
        "area": with_interval("area", "{:.4f}".format),
        "largest sparsity": value("largest_sparsity", percent),
    },
    figure="critical",
    category="Tickets",
    captioned=True,
)
