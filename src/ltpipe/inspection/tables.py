"""Tables that stages and reports write, recognised by their columns."""

from pathlib import Path

from ltpipe.analysis.overlap_tables import OVERLAP_LAYERS
from ltpipe.inspection.description import Description, describe_file
from ltpipe.reporting import side_by_side
from ltpipe.reporting.recognise import table_of
from ltpipe.reporting.registry import TABLES
from ltpipe.reporting.table import Table
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.sums import Sums, sums_file

_BY_TENSOR = Table(
    name="overlap", of="overlap of masks by tensor", row="a pair of masks and a tensor", columns=OVERLAP_LAYERS
)
INSPECTED = (*TABLES, side_by_side.TABLE, _BY_TENSOR)
_AXES = ("model", "data", "study", "training", "criterion", "scope", "level", "verdict")


def describe_table(path: Path) -> Description:
    """Describe a CSV or Parquet file.

    Raises:
        UserError: the file is not a table of ltpipe, or cannot be read.
        DamagedFileError: the file does not match its checksum.
    """
    beside = sums_file(path)
    if beside.is_file():  # a table sent without its checksum is described unchecked
        Sums.read(beside).check(path.name)
    table = table_of(path, INSPECTED)
    if table is None:
        raise UserError(
            f"{path}: neither an artefact nor a table of ltpipe; docs/cli.md lists what ltpipe inspect reads"
        )
    rows = table.parsed(path)
    values = {axis: sorted(map(str, rows[axis].dropna().unique())) for axis in _AXES if axis in rows}
    facts = {"rows": len(rows), **values, "columns": list(rows)}
    return describe_file(path, f"table of {table.of}", facts)
