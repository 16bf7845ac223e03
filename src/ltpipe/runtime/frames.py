"""Tables on disk: CSV for people and other tools, Parquet for programs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ltpipe.runtime.errors import DamagedFileError, UserError
from ltpipe.runtime.files import atomic_write


def frame(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> pd.DataFrame:
    """A table with these columns, by name and dtype: what a row lacks is missing, what it has beside them left out."""
    return pd.DataFrame(rows, columns=list(columns)).astype(dict(columns))


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV, floats in their shortest exact form."""
    with atomic_write(path) as file:
        file.write(table.to_csv(index=False, lineterminator="\n").encode())


def write_parquet(table: pd.DataFrame, path: Path) -> None:
    """Write a table as Parquet."""
    with atomic_write(path) as file:
        table.to_parquet(file, index=False)


def read_csv(path: Path, columns: Mapping[str, str], what: str, stage: str) -> pd.DataFrame:
    """Read a table that `write_csv` wrote.

    Args:
        path: of the file.
        columns: names and dtypes.
        what: what the file is, `a tickets table` for example, for messages.
        stage: the stage that makes it.

    Raises:
        UserError: there is no such file.
        DamagedFileError: it lacks columns or holds other values.
    """
    try:
        return pd.read_csv(path, dtype=dict(columns))[list(columns)]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (KeyError, ValueError) as error:
        raise DamagedFileError(f"{path}: not {what} ({error}); run the {stage} stage again") from None
