"""Files of text, read row by row: plain, lines or arrays of JSON, tables; compressed with gzip or not."""

import gzip
import zlib
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import Any

from ltpipe.runtime.errors import UserError
from ltpipe.runtime.jsonfiles import read_object

SUFFIXES = (".txt", ".jsonl", ".json", ".parquet", ".txt.gz", ".jsonl.gz", ".json.gz")
"""What the names of readable files end with."""
LAST_SUFFIXES = (".txt", ".jsonl", ".json", ".parquet", ".gz")
"""What pathlib calls their suffix."""
_BATCH = 256  # rows of a table in memory


def is_readable(path: Path) -> bool:
    """Whether a file's name says that it holds text."""
    return path.name.endswith(SUFFIXES)


def rows_of(path: Path, field: str) -> Iterator[tuple[str, Any]]:
    """The rows of a file, one at a time: where a row is (`line 3`; empty for a whole file), and what `field` holds.

    Rows of .parquet that hold null are left out.

    Args:
        path: of a file for which `is_readable`.
        field: key or column of the text in lines, arrays and tables.

    Raises:
        UserError: it is damaged, not UTF-8, or a row has no `field`.
    """
    if path.suffix == ".parquet":
        yield from _table(path, field)
        return
    kind = Path(path.name.removesuffix(".gz")).suffix
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        try:
            if kind == ".txt":
                yield "", _decoded(path, file.read(), 0)
            elif kind == ".json" and _is_array(file):
                yield from _array(path, file.read(), field)
            else:
                yield from _lines(path, file, field)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{path}: cannot be read or unpacked ({error}); fetch it again") from None


def _decoded(path: Path, text: bytes, before: int) -> str:
    """Bytes of a file as text; so many lie before them."""
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {before + error.start}); convert it to UTF-8") from None


def _lines(path: Path, file: BufferedIOBase, field: str) -> Iterator[tuple[str, Any]]:
    before = 0
    for number, raw in enumerate(file, 1):  # ends at newlines only: JSON strings may hold U+2028 and its like
        line = _decoded(path, raw, before)
        before += len(raw)
        if line.strip():
            yield f"line {number}", _value(path, f"line {number}", line, field)


def _value(path: Path, place: str, line: str, field: str) -> Any:
    try:
        return read_object(line)[field]
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path}: {place} is no JSON object with the key '{field}'") from None


def _is_array(file: BufferedIOBase) -> bool:
    """Whether a file of JSON begins as an array, not with the object of a first line."""
    while (byte := file.read(1)).isspace():
        pass
    file.seek(0)
    return byte == b"["


def _array(path: Path, text: bytes, field: str) -> Iterator[tuple[str, Any]]:
    try:
        content = read_object(_decoded(path, text, 0))
    except ValueError as error:
        raise UserError(f"{path}: begins as a JSON array, but is none ({error})") from None
    for number, entry in enumerate(content, 1):
        if not isinstance(entry, dict) or field not in entry:
            raise UserError(f"{path}: entry {number} is no JSON object with the key '{field}'")
        yield f"entry {number}", entry[field]


def _table(path: Path, field: str) -> Iterator[tuple[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        names = file.schema_arrow.names
        if field not in names:
            raise UserError(f"{path}: has no column '{field}' but {', '.join(names)}; set the text's key field")
        if not _holds_text(kind := file.schema_arrow.field(field).type):
            raise UserError(f"{path}: column '{field}' holds {kind}, expected strings; set the text's key field")
        number = 0
        for batch in file.iter_batches(_BATCH, columns=[field]):
            for value in batch.column(0).to_pylist():
                number += 1
                if value is not None:
                    yield f"row {number}", value
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a readable parquet file ({str(error).splitlines()[0]})") from None


def _holds_text(kind: Any) -> bool:
    """Whether a column's type is of strings, as they are or numbered in a dictionary, or of lists of messages."""
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_list(kind) or types.is_large_list(kind):
        return types.is_struct(kind.value_type)
    return any(
        is_kind(kind) for is_kind in (types.is_string, types.is_large_string, types.is_string_view, types.is_null)
    )
