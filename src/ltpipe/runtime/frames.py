"""Tables: their columns and their files, CSV for people and other tools, Parquet for programs.

Neither format can hold a digest that all readers ignore, so a table's checksum is stored beside it
(`ltpipe.runtime.sums`).
"""

import hashlib
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ltpipe.runtime.errors import MEND, DamagedFileError, UserError, first_line
from ltpipe.runtime.files import atomic_write, check_file
from ltpipe.runtime.made_with import check_made_with
from ltpipe.runtime.sums import Sums, sums_file, write_sums

if TYPE_CHECKING:
    from pandas import DataFrame as Frame
else:
    Frame = Any  # pandas takes half a second to import, which code that only needs columns can skip


class Column(NamedTuple):
    """A column of a table: its pandas dtype, and its meaning with the unit."""

    dtype: str
    meaning: str


Columns = Mapping[str, Column]
"""A table's columns by name, in order."""


def word(meaning: str) -> Column:
    """Return a column of strings."""
    return Column("string", meaning)


def count(meaning: str) -> Column:
    """Return a column of integers."""
    return Column("Int64", meaning)


def number(meaning: str) -> Column:
    """Return a column of floats."""
    return Column("float64", meaning)


def truth(meaning: str) -> Column:
    """Return a column of booleans."""
    return Column("boolean", meaning)


def bounds_of(*names: str) -> dict[str, Column]:
    """Return the columns for the interval bounds of these columns."""
    return {
        f"{name}_{bound}": number(f"{bound} end of its 95 % interval") for name in names for bound in ("low", "high")
    }


def measured(name: str, meaning: str) -> dict[str, Column]:
    """Return a column of floats and the columns of its interval."""
    return {name: number(meaning)} | bounds_of(name)


def dtypes(columns: Columns) -> dict[str, str]:
    """Return the dtype of each column."""
    return {name: column.dtype for name, column in columns.items()}


def is_missing(value: Any) -> bool:
    """Return whether a value of a table is missing."""
    import pandas as pd

    return bool(pd.isna(value))


def frame(rows: Sequence[Mapping[str, Any]], columns: Columns) -> Frame:
    """Return a table with these columns; absent values are missing, and other keys of rows are dropped."""
    import pandas as pd

    return pd.DataFrame(rows, columns=list(columns)).astype(dtypes(columns))


def csv_bytes(table: Frame) -> bytes:
    """Return a table as CSV, floats in their shortest exact form."""
    return table.to_csv(index=False, lineterminator="\n").encode()


def parquet_bytes(table: Frame) -> bytes:
    """Return a table as Parquet."""
    content = BytesIO()
    table.to_parquet(content, index=False)
    return content.getvalue()


def write_table(path: Path, content: bytes) -> None:
    """Write what `csv_bytes` or `parquet_bytes` returned, with its checksum beside it."""
    write_sums(path.with_name(f"{path.name}.sha256"), {path.name: hashlib.sha256(content).hexdigest()})
    with atomic_write(path) as file:
        file.write(content)


def read_table(path: Path, columns: Columns, what: str) -> Frame:
    """Read a table whose checksum is already verified, such as by `check_table`.

    Args:
        path: the file to read, Parquet or CSV.
        columns: the columns to read.
        what: name of the kind of file for error messages, for example `a tickets table`.

    Raises:
        DamagedFileError: the table is damaged, lacks columns or has values of other types.
    """
    import pandas as pd

    try:
        with path.open("rb") as file:
            is_parquet = file.read(4) == b"PAR1"
        if not is_parquet:
            return pd.read_csv(path, dtype=dtypes(columns))[list(columns)]
        table = pd.read_parquet(path)
        if dict(table.dtypes.astype(str)) != dtypes(columns):
            raise ValueError("it has other columns")
    except (KeyError, ValueError) as error:  # pyarrow's errors are ValueErrors
        raise DamagedFileError(f"{path}: not {what} ({first_line(error)}); {MEND}") from None
    return table


def check_table(path: Path, what: str, stage: str) -> None:
    """Reject a table whose file is missing, changed, or made with other settings.

    Args:
        path: the file.
        what: name of the kind of file for error messages.
        stage: the stage that makes it.

    Raises:
        UserError: there is no such file.
        DamagedFileError: the file has no checksum beside it, or does not match it.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file; run the {stage} stage again")
    check_file(path)
    beside = sums_file(path)
    if not beside.is_file():
        raise DamagedFileError(f"{path}: not {what} ({beside.name} is not beside it); {MEND}")
    sums = Sums.read(beside)
    sums.check(path.name)
    check_made_with(path, sums.made_with)
