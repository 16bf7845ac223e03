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
from ltpipe.reporting.columns import percent
from ltpipe.reporting.critical import NOTE, CriticalSparsity
from ltpipe.reporting.sections import Section, as_it_is, section, ticket_name, with_interval
from ltpipe.reporting.table import Table
from ltpipe.reporting.tables.axes import CURVE, TEXT, curve_of
from ltpipe.runtime.frames import Columns, Frame, count, frame, measured, number, truth

_DISTINCT = "whether the interval of its retention excludes the winning threshold"
COLUMNS: Columns = {
    **TEXT,
    **CURVE,
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

    A scope with its own sparsity gives no curve.
    """
    rows = []
    for sample in samples:
        for _, group in groupby(sample.tickets, key=lambda ticket: tuple(curve_of(ticket.metrics).values())):
            tickets = list(group)
            if has_own_sparsity(str(tickets[0].metrics.scope)):
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


def _section(table: Frame) -> Section:
    return section(
        "Critical sparsity",
        f"{NOTE} Area: the area under straight lines from the dense model to the largest sparsity, with its interval "
        "over text; it equals the largest sparsity if nothing is lost.",
        table,
        {
            "model": as_it_is("model"),
            "text": as_it_is("data"),
            "tickets": ticket_name(),
            "last winning": lambda row: CriticalSparsity.of(row).winning_text,
            "first losing": lambda row: CriticalSparsity.of(row).losing_text,
            "estimate": lambda row: CriticalSparsity.of(row).estimate_text,
            **({"times it falls": as_it_is("crossings")} if (table["crossings"] > 1).any() else {}),
            "area": with_interval("area", "{:.4f}"),
            "largest sparsity": lambda row: percent(row["largest_sparsity"]),
        },
    )


TABLE = Table(
    name="curves",
    of="curves over sparsity",
    row="all tickets that differ only in sparsity",
    columns=COLUMNS,
    key=(*TEXT, *CURVE),
    stage="tables",
    measured=lambda found: curves_table(found.samples),
    section=_section,
    figure="critical",
    category="Tickets",
    captioned=True,
)
