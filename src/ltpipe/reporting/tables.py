"""Tidy tables: one row a ticket."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from ltpipe.evaluation.metrics import Metrics
from ltpipe.runtime.errors import DamagedFileError, UserError
from ltpipe.runtime.files import atomic_write

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
    "kl_top_k": "float64",
    "baseline_loss": "float64",
    "baseline_perplexity": "float64",
    "baseline_accuracy": "float64",
    "tokens": "Int64",
    "sequences": "Int64",
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
"""Columns of the tickets table and their dtypes. Losses and divergences are nats per token; accuracies,
retentions and agreements fractions."""

_ORDER = ["model", "data", "criterion", "scope", "seed", "sparsity"]


def tickets_table(baselines: Sequence[Metrics], tickets: Sequence[Metrics]) -> pd.DataFrame:
    """One row a ticket, beside its dense model's loss, perplexity and accuracy, in a fixed order.

    Raises:
        UserError: a ticket's dense model, on the same sequences, is not among the baselines.
    """
    if not tickets or any(ticket.sparsity is None for ticket in tickets):
        raise UserError("tickets: metrics of at least one ticket are needed, and none of a dense model")
    dense = {(baseline.model, baseline.data): baseline for baseline in baselines}
    rows = []
    for ticket in tickets:
        baseline = dense.get((ticket.model, ticket.data))
        if baseline is None:
            raise UserError(f"no baseline of model '{ticket.model}' on text '{ticket.data}' was given")
        measured = {what: ticket.provenance["inputs"].get(what) for what in ("checkpoint", "sequences")}
        baseline.check_measured_on(measured, f"{ticket.model} on {ticket.data}")
        row = {name: getattr(ticket, name) for name in COLUMNS if hasattr(ticket, name)}
        rows.append(
            row
            | {
                "sparsity": float(ticket.sparsity or 0),
                "sequences": len(ticket.sequences.tokens),
                "baseline_loss": baseline.loss,
                "baseline_perplexity": baseline.perplexity,
                "baseline_accuracy": baseline.accuracy,
            }
        )
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)
    return table.sort_values(_ORDER, kind="stable", ignore_index=True)


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV, floats in their shortest exact form."""
    with atomic_write(path) as file:
        file.write(table.to_csv(index=False, lineterminator="\n").encode())


def write_parquet(table: pd.DataFrame, path: Path) -> None:
    """Write a table as Parquet."""
    with atomic_write(path) as file:
        table.to_parquet(file, index=False)


def read_tickets(path: Path) -> pd.DataFrame:
    """Read a tickets table that `write_csv` wrote.

    Raises:
        UserError: there is no such file.
        DamagedFileError: it lacks columns or holds other values.
    """
    try:
        return pd.read_csv(path, dtype=COLUMNS)[list(COLUMNS)]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (KeyError, ValueError) as error:
        raise DamagedFileError(f"{path}: not a tickets table ({error}); run the report stage again") from None
