"""Tables that stages and reports write, recognised by their columns."""

from collections.abc import Mapping
from pathlib import Path

from ltpipe.analysis.overlap_tables import OVERLAP_LAYERS
from ltpipe.inspection.description import Description, describe_file
from ltpipe.reporting import side_by_side
from ltpipe.reporting.registry import TABLES as REPORTED
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.frames import Columns
from ltpipe.runtime.sums import Sums, sums_file

TABLES: Mapping[str, Columns] = {
    **{table.of: table.columns for table in (*REPORTED, side_by_side.TABLE)},
    "overlap of masks by tensor": OVERLAP_LAYERS,
}
"""Columns of every table, by its subject."""
_AXES = ("model", "data", "study", "training", "criterion", "scope", "level", "verdict")


def describe_table(path: Path, parquet: bool) -> Description:
    """Describe a CSV or Parquet file.

    Raises:
        UserError: the file is not a table of ltpipe, or cannot be read.
        DamagedFileError: the file does not match its checksum.
    """
    import pandas as pd

    beside = sums_file(path)
    if beside.is_file():  # a table sent without its checksum is described unchecked
        Sums.read(beside).check(path.name)
    try:
        table = pd.read_parquet(path) if parquet else pd.read_csv(path)
    except (ValueError, OSError):  # pandas' and pyarrow's parse errors are ValueErrors
        raise UserError(
            f"{path}: neither an artefact of ltpipe nor a table; docs/cli.md lists what to inspect"
        ) from None
    for kind, columns in TABLES.items():
        if list(columns) == list(table.columns):
            values = {axis: sorted(map(str, table[axis].dropna().unique())) for axis in _AXES if axis in columns}
            facts = {"rows": len(table), **values, "columns": list(columns)}
            return describe_file(path, f"table of {kind}", facts)
    raise UserError(f"{path}: a table, but not one of ltpipe's")
