"""Small JSON files that hold one dataclass each, read strictly: what `write_record` did not write is refused."""

import types
from collections.abc import Mapping
from dataclasses import asdict, fields
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from ltpipe.runtime.errors import DamagedFileError
from ltpipe.runtime.files import read_json, write_json

FORMAT = 1

Record = TypeVar("Record")


def write_record(path: Path, kind: str, record: Any) -> None:
    """Write a dataclass as JSON, floats at full precision.

    Args:
        path: of the file.
        kind: what it is, `learning record` for example; stands in the file.
        record: of numbers, strings, tuples and dicts.
    """
    write_json(path, {"format": FORMAT, "kind": kind, **asdict(record)})


def read_record(path: Path, kind: str, of: type[Record]) -> Record:
    """Read what `write_record` wrote.

    Every field has to be there, no other one, each of its type, and every number finite; a ValueError from the
    dataclass's `__post_init__` says that they do not go together.

    Raises:
        UserError: there is no such file.
        DamagedFileError: it is something else.
    """
    content = read_json(path)
    try:
        if (content.pop("format", None), content.pop("kind", None)) != (FORMAT, kind):
            raise ValueError(f"it is no {kind} of format {FORMAT}")
        names = {field.name for field in fields(of)}
        if names != content.keys():
            raise ValueError(f"keys missing or not known: {', '.join(sorted(names ^ content.keys()))}")
        hints = get_type_hints(of)
        return of(**{name: _checked(value, hints[name], name) for name, value in content.items()})
    except ValueError as error:
        article = "an" if kind[0] in "aeiou" else "a"
        raise DamagedFileError(f"{path}: not {article} {kind}, or damaged ({error}); run its stage again") from None


def _checked(value: Any, wanted: Any, name: str) -> Any:
    """A JSON value as a field's type has it; lists become tuples, whole numbers floats where those are wanted."""
    origin, arguments = get_origin(wanted), get_args(wanted)
    if origin in (types.UnionType, Union):
        (inner,) = (kind for kind in arguments if kind is not types.NoneType)
        return None if value is None else _checked(value, inner, name)
    if origin is tuple and isinstance(value, list):
        kinds = arguments[:1] * len(value) if arguments[1:] == (...,) else arguments
        if len(kinds) == len(value):
            return tuple(_checked(item, kind, name) for item, kind in zip(value, kinds, strict=True))
    if origin is Mapping and isinstance(value, dict):
        return value
    if wanted is float and isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value):
        return float(value)
    # bool is a subclass of int: 1 is no bool here, and true no number.
    if type(value) is wanted and wanted is not float:
        return value
    raise ValueError(f"{name}: {str(value)[:50]!r} is not allowed")
