"""Small JSON files of one dataclass each, read strictly: anything `Record.write` did not write is rejected."""

import sys
import types
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Self, Union, get_args, get_origin, get_type_hints

from ltpipe.runtime.errors import MEND, DamagedFileError
from ltpipe.runtime.jsonfiles import read_record, write_record

FORMAT = 2
_MOST = sys.float_info.max  # the comparison also rejects NaN and integers too large for a float


@dataclass(frozen=True)
class Record:
    """Base of a dataclass of numbers, strings, tuples and dicts that is stored as a file.

    The dataclass's `__post_init__` raises ValueError if its fields are inconsistent.
    """

    KIND: ClassVar[str]
    """The file's kind, for example `learning record`, which is stored in it."""

    def write(self, path: Path) -> None:
        """Write as JSON, floats at full precision."""
        write_record(path, {"format": FORMAT, "kind": self.KIND, **asdict(self)})

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file that `write` wrote: exactly the dataclass's fields, each of its type, numbers finite.

        Raises:
            UserError: there is no such file.
            DamagedFileError: the file is not such a record.
        """
        content = read_record(path)
        try:
            if (content.pop("format", None), content.pop("kind", None)) != (FORMAT, cls.KIND):
                raise ValueError(f"expected kind '{cls.KIND}' in format {FORMAT}")
            names = {field.name for field in fields(cls)}
            if names != content.keys():
                raise ValueError(f"keys missing or unknown: {', '.join(sorted(names ^ content.keys()))}")
            hints = get_type_hints(cls)
            return cls(**{name: _checked(value, hints[name], name) for name, value in content.items()})
        except ValueError as error:
            article = "an" if cls.KIND[0] in "aeiou" else "a"
            raise DamagedFileError(f"{path}: not {article} {cls.KIND}, or damaged ({error}); {MEND}") from None


def _checked(value: Any, wanted: Any, name: str) -> Any:
    """Convert a JSON value to a field's type: lists to tuples, integers to floats where the type asks for them."""
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
    # bool is a subclass of int, but here 1 is not a bool and true is not a number.
    if type(value) is wanted and wanted is not float:
        return value
    raise ValueError(f"{name}: {str(value)[:50]!r} is not allowed")
