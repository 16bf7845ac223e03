"""Tidy tables: one row a ticket, a pair of tickets, a curve."""

from collections.abc import Callable, Sequence
from itertools import combinations, groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ltpipe.analysis.confidence import accuracy_difference, bounds, interval, loss_difference, retention
from ltpipe.analysis.curves import Curve
from ltpipe.analysis.samples import ONCE, Evaluated, Sample, cell_named
from ltpipe.evaluation.metrics import Metrics
from ltpipe.evaluation.quality import uniform_loss
from ltpipe.pruning.scopes import has_own_sparsity
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.frames import frame, read_csv
from ltpipe.runtime.progress import track

COLUMNS: dict[str, str] = {
    "model": "string",
    "data": "string",
    "criterion": "string",
    "scope": "string",
    "seed": "Int64",
    "sparsity": "float64",
    "kept": "Int64",
    "total": "Int64",
    "parameters": "Int64",
    "loss": "float64",
    "perplexity": "float64",
    "accuracy": "float64",
    "performance_retention": "float64",
    "agreement": "float64",
    "agreement_low": "float64",
    "agreement_high": "float64",
    "kl_top_k": "float64",
    "kl_top_k_low": "float64",
    "kl_top_k_high": "float64",
    "performance_retention_low": "float64",
    "performance_retention_high": "float64",
    "loss_difference": "float64",
    "loss_difference_low": "float64",
    "loss_difference_high": "float64",
    "accuracy_difference": "float64",
    "accuracy_difference_low": "float64",
    "accuracy_difference_high": "float64",
    "baseline_loss": "float64",
    "baseline_loss_low": "float64",
    "baseline_loss_high": "float64",
    "uniform_loss": "float64",
    "baseline_perplexity": "float64",
    "baseline_accuracy": "float64",
    "tokens": "Int64",
    "sequences": "Int64",
    "protocol": "string",
    "precision": "string",
    "device": "string",
    "execution": "string",
    "planned_bytes": "Int64",
    "measured_bytes": "Int64",
    "peak_host_bytes": "Int64",
    "peak_host_private_bytes": "Int64",
    "peak_device_bytes": "Int64",
    "peak_device_reserved_bytes": "Int64",
    "seconds": "float64",
}
"""Columns of the tickets table and their dtypes. Losses and divergences are nats per token; accuracies, retentions and
agreements fractions. `uniform_loss` is that of a uniform guess among the vocabulary.

Columns in `_low` and `_high` are the bounds of 95 % intervals.
"""

COMPARISONS: dict[str, str] = {
    "model": "string",
    "data": "string",
    "sparsity": "float64",
    **{
        f"{axis}_{side}": "Int64" if axis == "seed" else "string"
        for side in ("a", "b")
        for axis in ("criterion", "scope", "seed")
    },
    "loss_difference": "float64",
    "loss_difference_low": "float64",
    "loss_difference_high": "float64",
    "distinct": "boolean",
}
"""Columns of the comparisons table: loss of ticket a minus that of ticket b, and whether 0 is outside its interval."""

CURVES: dict[str, str] = {
    "model": "string",
    "data": "string",
    "criterion": "string",
    "scope": "string",
    "seed": "Int64",
    "total": "Int64",
    "largest_sparsity": "float64",
    "last_winning_sparsity": "float64",
    "last_winning_kept": "Int64",
    "last_winning_distinct": "boolean",
    "first_losing_sparsity": "float64",
    "first_losing_kept": "Int64",
    "first_losing_distinct": "boolean",
    "crossings": "Int64",
    "critical_sparsity_estimate": "float64",
    "critical_sparsity_estimate_low": "float64",
    "critical_sparsity_estimate_high": "float64",
    "area": "float64",
    "area_low": "float64",
    "area_high": "float64",
}
"""Columns of the curves table.

The critical sparsity lies between the last winning ticket, the dense model of sparsity 0 where all lose, and the first
losing one, missing where all win; `distinct` says whether the interval of a ticket's retention excludes that of a
winning ticket. The estimate is interpolated between the two. It and its bounds, which are over samples of text and know
no error of interpolating, are missing where they are at least the largest sparsity.
"""

CELL = ("model", "data", "criterion", "scope", "seed", "sparsity")
"""What a row of the tickets table is told apart by."""


def tickets_table(samples: Sequence[Sample]) -> pd.DataFrame:
    """One row a ticket, beside its dense model's loss, perplexity and accuracy, in a fixed order.

    Every difference from the dense model has its paired interval of 95 %.
    """
    rows = []
    for sample in samples:
        baseline = sample.dense.metrics
        for evaluated in track(sample.tickets, "intervals", "ticket"):
            ticket = evaluated.metrics
            row = {name: getattr(ticket, name) for name in COLUMNS if hasattr(ticket, name)}
            rows.append(
                row
                | {
                    "sparsity": float(ticket.sparsity or 0),
                    "sequences": sample.sequences,
                    "baseline_loss": baseline.loss,
                    **bounds("baseline_loss", interval(sample.dense.resampled.loss, sample.sequences)),
                    "uniform_loss": uniform_loss(baseline.vocabulary),
                    "baseline_perplexity": baseline.perplexity,
                    "baseline_accuracy": baseline.accuracy,
                }
                | _against_dense(sample, evaluated)
            )
    return frame(rows, COLUMNS)


def comparisons_table(samples: Sequence[Sample]) -> pd.DataFrame:
    """One row a pair of tickets of the same model, text and sparsity, each pair once, in the order of the tickets."""
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
                    **_named(a.metrics, "_a"),
                    **_named(b.metrics, "_b"),
                    "loss_difference": a.metrics.loss - b.metrics.loss,
                    **bounds("loss_difference", found),
                    "distinct": found.excludes(0.0),
                }
            )
    table = frame(rows, COMPARISONS)
    return table.sort_values(["model", "data", "sparsity"], kind="stable", ignore_index=True)


def curves_table(samples: Sequence[Sample]) -> pd.DataFrame:
    """One row for all tickets that differ only in sparsity: where they stop winning, and the area under their curve.

    A scope with a sparsity of its own gives no curve.
    """
    rows = []
    for sample in samples:
        for _, group in groupby(sample.tickets, key=lambda ticket: tuple(_named(ticket.metrics).values())):
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
                    **_named(tickets[0].metrics),
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
    return frame(rows, CURVES)


def _end(name: str, curve: Curve, tickets: Sequence[Evaluated], index: int | None) -> dict[str, Any]:
    """One end of a curve's bracket."""
    if index is None:
        return {}
    return {
        f"{name}_sparsity": curve.sparsities[index],
        f"{name}_kept": tickets[index].metrics.kept,
        f"{name}_distinct": curve.is_distinct(index),
    }


def read_tickets(path: Path) -> pd.DataFrame:
    """Read a tickets table that `write_csv` wrote.

    Raises:
        UserError: there is no such file.
        DamagedFileError: it lacks columns or holds other values.
    """
    return read_csv(path, COLUMNS, "a tickets table", "report")


def read_beside(path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read the tables of curves and comparisons that lie beside a tickets table; raises as `read_tickets` does."""
    return (
        read_csv(path.with_name("curves.csv"), CURVES, "a curves table", "report"),
        read_csv(path.with_name("comparisons.csv"), COMPARISONS, "a comparisons table", "report"),
    )


def gathered(
    paths: Sequence[Path], columns: dict[str, str], read: Callable[..., pd.DataFrame], cell: Sequence[str] = ()
) -> pd.DataFrame:
    """The rows of several tables that stages wrote, one after the other.

    Args:
        paths: of the tables.
        columns: that each has.
        read: `read_csv` or `read_parquet`, with what it says of a file that is something else.
        cell: columns that tell each row from all others; none where rows may be alike.

    Raises:
        UserError: two rows are of one cell.
    """
    tables = [read(path, columns) for path in paths]
    found = pd.concat([table for table in tables if len(table)] or [frame([], columns)], ignore_index=True)
    if cell and (twice := found.duplicated(list(cell))).any():
        row = found.loc[twice, list(cell)].iloc[:1]
        where = [str(path) for path, table in zip(paths, tables, strict=True) if len(table.merge(row))]
        raise UserError(f"{' and '.join(where)}: two rows of {cell_named(row.iloc[0].to_dict())}; {ONCE}")
    return found.astype(columns)  # categories of several files have become words


def _against_dense(sample: Sample, ticket: Evaluated) -> dict[str, float]:
    """What a ticket gains or loses, with intervals."""
    dense = sample.dense
    compared = {"agreement": ticket.resampled.agreement, "kl_top_k": ticket.resampled.kl}
    return {
        **{
            key: bound
            for name, values in compared.items()
            if values is not None
            for key, bound in bounds(name, interval(values, sample.sequences)).items()
        },
        "loss_difference": ticket.metrics.loss - dense.metrics.loss,
        "accuracy_difference": ticket.metrics.accuracy - dense.metrics.accuracy,
        **{
            key: bound
            for name, statistic in (
                ("performance_retention", retention),
                ("loss_difference", loss_difference),
                ("accuracy_difference", accuracy_difference),
            )
            for key, bound in bounds(
                name, interval(statistic(ticket.resampled, dense.resampled), sample.sequences)
            ).items()
        },
    }


def _named(ticket: Metrics, side: str = "") -> dict[str, Any]:
    return {f"{axis}{side}": getattr(ticket, axis) for axis in ("criterion", "scope", "seed")}
