"""JSON files of one dataclass each, read strictly: anything that its `write` did not write is rejected."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, TypeVar

from annotated_types import Ge, Interval, MinLen

from ltpipe.runtime.errors import MEND, DamagedFileError
from ltpipe.runtime.jsonfiles import read_record, write_record

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError

T = TypeVar("T")

Word = Annotated[str, MinLen(1)]
Count = Annotated[int, Ge(0)]
Positive = Annotated[int, Ge(1)]
Amount = Annotated[float, Ge(0)]
Share = Annotated[float, Interval(ge=0, le=1)]
"""Field types: the values that a file may contain. All numbers are finite."""

STRICT = {"strict": True, "extra": "forbid", "allow_inf_nan": False}
"""Settings for pydantic: the `__pydantic_config__` of a dataclass, which nested dataclasses inherit."""


@dataclass(frozen=True)
class Record:
    """Base of dataclasses that are stored as files.

    Fields are JSON values, values that pydantic writes as such, or tuples or dataclasses of them.

    The dataclass's `__post_init__` raises ValueError if its fields are inconsistent.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT
    KIND: ClassVar[str]
    """What the file is, for example `learning record`."""
    FORMAT: ClassVar[int] = 3

    @classmethod
    def head(cls) -> dict[str, Any]:
        """Return the entries that the file begins with."""
        return {"format": cls.FORMAT, "kind": cls.KIND}

    def content(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        found: dict[str, Any] = _adapter(type(self)).dump_python(self, warnings=False)  # type: ignore[arg-type]
        return found

    def write(self, path: Path) -> None:
        """Write as JSON, floats at full precision.

        Raises:
            DamagedFileError: a field has an invalid value.
        """
        content = self.content()
        typed(type(self), content, path, self.KIND)
        write_record(path, {**self.head(), **content})

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file that `write` wrote; every field must be present, with its type, and there may be no others.

        Raises:
            UserError: there is no such file.
            DamagedFileError: the file is not such a record.
        """
        content = read_record(path)
        if {key: content.pop(key, None) for key in cls.head()} != cls.head():
            raise _damaged(path, cls.KIND, f"expected kind '{cls.KIND}' in format {cls.FORMAT}")
        return typed(cls, content, path, cls.KIND)


def typed(kind: type[T], content: Mapping[str, Any], path: Path, what: str) -> T:
    """Convert a file's content to a dataclass: all of its fields and no others, as strictly as its settings say.

    Args:
        kind: the dataclass.
        content: content of the file.
        path: path of the file, for messages.
        what: what the file should be, for messages.

    Raises:
        DamagedFileError: a field is missing, unknown or invalid; names the first one.
    """
    from pydantic import ValidationError

    missing = {field.name for field in fields(kind)} - content.keys()  # type: ignore[arg-type]
    if missing:
        raise _damaged(path, what, f"{min(missing)}: missing")
    try:
        # JSON has no tuples, only lists.
        found: T = _adapter(kind).validate_json(json.dumps(content))  # type: ignore[arg-type]
        return found
    except ValidationError as error:
        raise _damaged(path, what, problem(error)) from None


def problem(error: "ValidationError") -> str:
    """Return the first problem as one line: where, what was found, what is accepted."""
    first = error.errors(include_url=False)[0]
    where, words = ".".join(map(str, first["loc"])), first["msg"]
    match first["type"]:
        case "missing":
            return f"{where}: missing"
        case "unexpected_keyword_argument":
            return f"{where}: unknown"
        case "value_error":
            return words.removeprefix("Value error, ")
    return f"{where}: ".removeprefix(": ") + f"{str(first['input'])[:50]!r} is not allowed: {words}"


def _damaged(path: Path, what: str, problem: str) -> DamagedFileError:
    article = "an" if what[0] in "aeiou" else "a"
    return DamagedFileError(f"{path}: not {article} {what}, or damaged ({problem}); {MEND}")


@cache
def _adapter(kind: type[Any]) -> "TypeAdapter[Any]":
    from pydantic import TypeAdapter

    return TypeAdapter(kind)
