"""Which table a file is, by its columns."""

from collections.abc import Iterable
from pathlib import Path

from ltpipe.reporting.registry import TABLES
from ltpipe.reporting.table import Table
from ltpipe.runtime.errors import MEND, DamagedFileError
from ltpipe.runtime.frames import Frame, check_table


def column_names(path: Path) -> list[str]:
    """Return the names of a table's columns; raise ValueError or OSError if it is no CSV or Parquet table."""
    import pandas as pd
    from pyarrow import parquet

    with path.open("rb") as file:
        if file.read(4) == b"PAR1":
            return list(parquet.read_schema(path).names)
    return list(pd.read_csv(path, nrows=0).columns)


def table_of(path: Path, tables: Iterable[Table] = TABLES) -> Table | None:
    """Return the table that a file holds; None if it is none of these."""
    try:
        names = column_names(path)
    except (ValueError, OSError):  # pandas' and pyarrow's parse errors are ValueErrors
        return None
    return next((table for table in tables if list(table.columns) == names), None)


def read_tables(paths: Iterable[Path]) -> dict[str, list[tuple[str, Frame]]]:
    """Return tables by name, each with the file that it is from; see `check_table` for what is refused."""
    found: dict[str, list[tuple[str, Frame]]] = {}
    for path in paths:
        check_table(path, "a table of ltpipe", "tables")
        table = table_of(path)
        if table is None:
            raise DamagedFileError(f"{path}: not a table of a report; {MEND}")
        found.setdefault(table.name, []).append((str(path), table.parsed(path)))
    return found
