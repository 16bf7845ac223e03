"""Small JSON files that hold one dataclass each, read strictly: what `Record.write` did not write is refused."""

import sys
import types
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self, Union, get_args, get_origin, get_type_hints

from ltpipe.runtime.errors import MEND, DamagedFileError
from ltpipe.runtime.jsonfiles import read_record, write_record

FORMAT = 2
_MOST = sys.float_info.max  # NaN is not below it, nor is a whole number that no float can hold


@dataclass(frozen=True)
class Record:
    """Base of a dataclass of numbers, strings, tuples and dicts that is kept as a file.

    A ValueError from the dataclass's `__post_init__` says that fields do not go together.
    """

    KIND: ClassVar[str]
    """What the file is, `learning record` for example; stands in the file."""

    def write(self, path: Path) -> None:
        """Write as JSON, floats at full precision."""
        write_record(path, {"format": FORMAT, "kind": self.KIND, **asdict(self)})

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what `write` wrote: every field has to be there, no other one, each of its type, numbers finite.

        Raises:
            UserError: there is no such file.
            DamagedFileError: it is something else.
        """
        content = read_record(path)
        try:
            if (content.pop("format", None), content.pop("kind", None)) != (FORMAT, cls.KIND):
                raise ValueError(f"it is no {cls.KIND} of format {FORMAT}")
            names = {field.name for field in fields(cls)}
            if names != content.keys():
                raise ValueError(f"keys missing or not known: {', '.join(sorted(names ^ content.keys()))}")
            hints = get_type_hints(cls)
            return cls(**{name: _checked(value, hints[name], name) for name, value in content.items()})
        except ValueError as error:
            article = "an" if cls.KIND[0] in "aeiou" else "a"
            raise DamagedFileError(f"{path}: not {article} {cls.KIND}, or damaged ({error}); {MEND}") from None


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
    if wanted is float and isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _MOST:
        return float(value)
    # bool is a subclass of int: 1 is no bool here, and true no number.
    if type(value) is wanted and wanted is not float:
        return value
    raise ValueError(f"{name}: {str(value)[:50]!r} is not allowed")
