"""Tables that stages and reports write, known by their columns."""

from collections.abc import Mapping
from pathlib import Path

from ltpipe.analysis import validation_table
from ltpipe.analysis.overlap_tables import LAYERS, OVERLAP
from ltpipe.inspection.description import Description, describe_file
from ltpipe.reporting import costs, robustness, simulations, tables, trainings
from ltpipe.reporting.findings import FINDINGS
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.frames import check_digest, digest_file

TABLES: Mapping[str, Mapping[str, str]] = {
    "tickets": tables.COLUMNS,
    "comparisons of tickets": tables.COMPARISONS,
    "curves over sparsity": tables.CURVES,
    "overlap of masks": OVERLAP,
    "overlap of masks by tensor": LAYERS,
    "validation of masks": validation_table.VALIDATION,
    "what the tensors of masks keep": validation_table.LAYERS,
    "time and memory": costs.COLUMNS,
    "robustness": robustness.COLUMNS,
    "simulated iterations": simulations.COLUMNS,
    "trainings": trainings.TRAININGS,
    "levels": trainings.LEVELS,
    "linear connectivity": trainings.CONNECTIVITY,
    "early birds": trainings.EARLY_BIRDS,
    "findings": FINDINGS,
}
"""Columns of every table, by what it is of."""
_AXES = ("model", "data", "study", "criterion", "scope", "level", "verdict")


def describe_table(path: Path, parquet: bool) -> Description:
    """Describe a CSV or Parquet file.

    Raises:
        UserError: it is none of ours, or cannot be read.
        DamagedFileError: it does not match the checksum beside it.
    """
    import pandas as pd

    if digest_file(path).is_file():  # a table that was sent without it is looked at as it is
        check_digest(path)
    try:
        table = pd.read_parquet(path) if parquet else pd.read_csv(path)
    except (ValueError, OSError):  # pandas' and pyarrow's parse errors are ValueErrors
        raise UserError(f"{path}: no artefact of ltpipe, nor a table; docs/cli.md says what can be inspected") from None
    for kind, columns in TABLES.items():
        if list(columns) == list(table.columns):
            values = {axis: sorted(map(str, table[axis].dropna().unique())) for axis in _AXES if axis in columns}
            facts = {"rows": len(table), **values, "columns": list(columns)}
            return describe_file(path, f"table of {kind}", facts)
    raise UserError(f"{path}: a table, but none of ltpipe's")
