"""Tables on disk: CSV for people and other tools, Parquet for programs.

Neither has room for a digest that every reader would pass over, so a table has its SHA-256 beside it, in a file as
`sha256sum --check` reads it. What the table was made with stands there too, in a comment.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd

from ltpipe.runtime.errors import MEND, DamagedFileError, UserError
from ltpipe.runtime.files import atomic_write, check_file, sha256_of
from ltpipe.runtime.made_with import asked, check_made_with

_COMMENT = b"# made with "


def frame(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> pd.DataFrame:
    """A table with these columns, by name and dtype: what a row lacks is missing, what it has beside them left out."""
    return pd.DataFrame(rows, columns=list(columns)).astype(dict(columns))


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV, floats in their shortest exact form, and its SHA-256 beside it."""
    _write(path, table.to_csv(index=False, lineterminator="\n").encode())


def write_parquet(table: pd.DataFrame, path: Path) -> None:
    """Write a table as Parquet, and its SHA-256 beside it."""
    content = BytesIO()
    table.to_parquet(content, index=False)
    _write(path, content.getvalue())


def digest_file(path: Path) -> Path:
    """Where the SHA-256 of a table stands."""
    return path.with_name(f"{path.name}.sha256")


def read_csv(path: Path, columns: Mapping[str, str], what: str, stage: str) -> pd.DataFrame:
    """Read a table that `write_csv` wrote.

    Args:
        path: of the file.
        columns: names and dtypes.
        what: what the file is, `a tickets table` for example, for messages.
        stage: the stage that makes it.

    Raises:
        UserError: there is no such file.
        DamagedFileError: it is damaged, lacks columns or holds other values.
    """
    _check(path, what, stage)
    try:
        return pd.read_csv(path, dtype=dict(columns))[list(columns)]
    except (KeyError, ValueError) as error:
        raise DamagedFileError(f"{path}: not {what} ({error}); {MEND}") from None


def read_parquet(path: Path, columns: Mapping[str, str], what: str, stage: str) -> pd.DataFrame:
    """Read a table that `write_parquet` wrote; arguments and errors are those of `read_csv`."""
    _check(path, what, stage)
    try:
        table = pd.read_parquet(path)
        if dict(table.dtypes.astype(str)) != dict(columns):
            raise ValueError("it has other columns")
    except ValueError as error:  # pyarrow's errors are such
        reason = str(error).strip().split("\n")[0]
        raise DamagedFileError(f"{path}: not {what} ({reason}); {MEND}") from None
    return table


def check_digest(path: Path) -> None:
    """Raise DamagedFileError unless a table is what the SHA-256 beside it was computed of."""
    beside = digest_file(path)
    lines = beside.read_bytes().splitlines(keepends=True)
    if lines[:1] != [_sum(path, sha256_of(path))]:
        raise DamagedFileError(f"{path}: damaged, does not match {beside.name}; {MEND}")


def made_with(path: Path) -> dict[str, Any] | None:
    """What a table was made with, as the file beside it says; None where it says nothing.

    Raises:
        DamagedFileError: it says something else.
    """
    beside = digest_file(path)
    comment = beside.read_bytes().partition(b"\n")[2].strip()
    if not comment:
        return None
    try:
        settings: dict[str, Any] = dict(json.loads(comment.removeprefix(_COMMENT)))
    except (ValueError, TypeError) as error:
        raise DamagedFileError(f"{beside}: damaged ({error}); delete it and {path.name}, and run again") from None
    return settings


def _write(path: Path, content: bytes) -> None:
    settings = asked()
    said = b"" if settings is None else _COMMENT + json.dumps(settings, ensure_ascii=False).encode() + b"\n"
    with atomic_write(digest_file(path)) as file:
        file.write(_sum(path, hashlib.sha256(content).hexdigest()) + said)
    with atomic_write(path) as file:
        file.write(content)


def _check(path: Path, what: str, stage: str) -> None:
    """Refuse a table that is missing, or not as it was written."""
    if not path.exists():
        raise UserError(f"{path}: no such file; run the {stage} stage again")
    check_file(path)
    beside = digest_file(path)
    if not beside.is_file():
        raise DamagedFileError(f"{path}: not {what} ({beside.name} is not beside it); {MEND}")
    check_digest(path)
    check_made_with(path, made_with(path))


def _sum(path: Path, digest: str) -> bytes:
    return f"{digest}  {path.name}\n".encode()
