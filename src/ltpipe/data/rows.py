"""Text files read row by row: plain text, JSON lines or arrays, and tables, optionally gzip-compressed."""

import gzip
import zlib
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import Any

from ltpipe.runtime.errors import UserError
from ltpipe.runtime.jsonfiles import read_object

SUFFIXES = (".txt", ".jsonl", ".json", ".parquet", ".txt.gz", ".jsonl.gz", ".json.gz")
"""Endings of readable file names."""
LAST_SUFFIXES = (".txt", ".jsonl", ".json", ".parquet", ".gz")
"""Their suffixes in pathlib's sense."""
_BATCH = 256  # rows of a table in memory


def is_readable(path: Path) -> bool:
    """Return whether a file's name has a readable ending."""
    return path.name.endswith(SUFFIXES)


def rows_of(path: Path, field: str) -> Iterator[tuple[str, Any]]:
    """Yield a file's rows: each row's place (`line 3`; empty for a whole file) and its value of `field`.

    Null rows of .parquet are skipped.

    Args:
        path: a file for which `is_readable` holds.
        field: key or column of the text in lines, arrays and tables.

    Raises:
        UserError: the file is damaged or not UTF-8, or a row has no `field`.
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
    """Decode bytes that start `before` bytes into the file."""
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {before + error.start}); convert it to UTF-8") from None


def _lines(path: Path, file: BufferedIOBase, field: str) -> Iterator[tuple[str, Any]]:
    before = 0
    for number, raw in enumerate(file, 1):  # split only at newlines: JSON strings may hold U+2028 and the like
        line = _decoded(path, raw, before)
        before += len(raw)
        if line.strip():
            yield f"line {number}", _value(path, f"line {number}", line, field)


def _value(path: Path, place: str, line: str, field: str) -> Any:
    try:
        return read_object(line)[field]
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path}: {place} is not a JSON object with the key '{field}'") from None


def _is_array(file: BufferedIOBase) -> bool:
    """Return whether a JSON file starts with an array, not with an object on its first line."""
    while (byte := file.read(1)).isspace():
        pass
    file.seek(0)
    return byte == b"["


def _array(path: Path, text: bytes, field: str) -> Iterator[tuple[str, Any]]:
    try:
        content = read_object(_decoded(path, text, 0))
    except ValueError as error:
        raise UserError(f"{path}: starts like a JSON array but is not one ({error})") from None
    for number, entry in enumerate(content, 1):
        if not isinstance(entry, dict) or field not in entry:
            raise UserError(f"{path}: entry {number} is not a JSON object with the key '{field}'")
        yield f"entry {number}", entry[field]


def _table(path: Path, field: str) -> Iterator[tuple[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        names = file.schema_arrow.names
        if field not in names:
            raise UserError(f"{path}: no column '{field}'; set the text's key field to one of {', '.join(names)}")
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
    """Return whether a column holds strings, plain or dictionary-encoded, or lists of messages."""
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_list(kind) or types.is_large_list(kind):
        return types.is_struct(kind.value_type)
    return any(
        is_kind(kind) for is_kind in (types.is_string, types.is_large_string, types.is_string_view, types.is_null)
    )
