"""The parts of a configuration: sections, types that several keys share, and the list of all keys."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, MinLen
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from ltpipe.pruning.sparsity import Sparsity
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.records import STRICT, Count


class Section(BaseModel):
    """Keys that belong together. Docstrings of keys and sections are part of errors and of docs.

    A validator that refuses a value raises ValueError with a message that follows the section's own key, so it begins
    with the key below: `.step: 9 is not allowed; use 0 to 8`. `refusals` makes such an error of a UserError.
    """

    model_config = ConfigDict(**STRICT, use_attribute_docstrings=True)  # type: ignore[typeddict-item]


@contextmanager
def refusals(key: str = "") -> Iterator[None]:
    """Turn a UserError into the ValueError that pydantic expects of a validator, with `key` before its message."""
    try:
        yield
    except UserError as error:
        raise ValueError(f"{key}{error}") from None


def _without_duplicates(values: list[Any]) -> list[Any]:
    for value, count in Counter(values).items():
        if count > 1:
            raise PydanticCustomError("duplicate", "{value} appears twice", {"value": repr(value)})
    return values


def _exact(value: Any) -> Any:
    if isinstance(value, int | float) and not isinstance(value, bool):
        with refusals():
            Sparsity.of(value)
    return value


Unique = AfterValidator(_without_duplicates)
PrunedFraction = Annotated[float, BeforeValidator(_exact)]
Seeds = Annotated[list[Count], MinLen(1), Unique]
AtLeastTwo = Annotated[int, Ge(2)]
AboveZero = Annotated[float, Gt(0)]
SequenceCount = Annotated[int, Ge(1)] | Literal["all"]
Option = float | int | bool | str
Name = Annotated[
    str,
    StringConstraints(max_length=100, pattern="^[A-Za-z0-9][A-Za-z0-9._-]*$"),
    Field(description="a name of at most 100 letters, digits, '.', '_' and '-' that begins with a letter or digit"),
]
Patterns = Annotated[list[Annotated[str, StringConstraints(pattern="(?s)^[^-].*$")]], Unique]


@dataclass(frozen=True)
class Key:
    """A key that has a value of its own.

    Attributes:
        path: keys from the top, with dots between them; `<name>` stands for a name that the user chooses.
        field: its type, default and description.
    """

    path: str
    field: FieldInfo

    @property
    def default(self) -> str:
        """The default as JSON, which YAML can read; empty if the key is required."""
        return "" if self.field.is_required() else json.dumps(self.field.default, ensure_ascii=False)


def keys(section: type[Section], prefix: str = "") -> Iterator[Key]:
    """Yield all keys of a section; one that holds other keys is listed itself only if it may be null."""
    for name, field in section.model_fields.items():
        path = f"{prefix}{name}"
        below, prefixes = inner_section(field.annotation)
        if below is None or NoneType in get_args(field.annotation):
            yield Key(path, field)
        if below is not None:
            yield from keys(below, f"{path}{prefixes}")


def inner_section(annotation: Any) -> tuple[type[Section] | None, str]:
    """Return the section that a key holds and the text between the two in a path; None for a plain value.

    If another key chooses among sections, it is the last one, which fits any choice.
    """
    for kind in reversed(alternatives(annotation)):
        if isinstance(kind, type) and issubclass(kind, Section):
            return kind, "."
        if get_origin(kind) is dict and (inner := inner_section(get_args(kind)[1])[0]):
            return inner, ".<name>."
    return None, ""


def alternatives(annotation: Any) -> list[Any]:
    """Return the types of a union, without their metadata, or a type that is no union by itself."""
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, UnionType):
        return [kind for each in get_args(annotation) for kind in alternatives(each)]
    return [annotation]


def meaning(field: FieldInfo) -> str:
    """Return what a key means: its docstring, or that of the section that it holds."""
    section = inner_section(field.annotation)[0]
    if field.description or section is None:
        return " ".join((field.description or "").split())
    text = (section.__doc__ or "").removesuffix(".")
    return text[:1].lower() + text[1:]
