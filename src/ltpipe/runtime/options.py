"""Options of a criterion or scope: a frozen dataclass in its own file, filled from a configuration or command line.

A field is a float, an int, a bool or a `Literal` of words, and has a default. `__post_init__` checks anything beyond
the type and raises a UserError that starts with the field's name.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_type_hints

from ltpipe.runtime.errors import UserError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")
_ALLOWED = {bool: "true or false", int: "a whole number", float: "a number"}
Value = float | int | bool | str
Given = Mapping[str, Value]
"""Option names to values from a configuration, or to their text on a command line."""


@dataclass(frozen=True)
class NoOptions:
    """No options."""


def options_of(kind: type[T], given: Given, key: str) -> T:
    """Fill an options dataclass.

    Args:
        kind: dataclass of the options; missing ones take their defaults.
        given: option names to values, or to their text on a command line.
        key: name of the options in error messages.

    Raises:
        UserError: there is no such option, or it does not accept this value.
    """
    hints = get_type_hints(kind)
    known = {field.name: hints[field.name] for field in fields(kind)}
    for name in given:
        if name not in known:
            accepted = f"use {', '.join(known)}" if known else "there are no options"
            raise UserError(f"{key}: unknown option '{name}'; {accepted}")
    values = {name: _value(known[name], value, f"{key}.{name}") for name, value in given.items()}
    try:
        return kind(**values)
    except UserError as error:
        raise UserError(f"{key}.{error}") from None


def as_given(options: Any) -> dict[str, Value]:
    """Return all options with their values, JSON-serialisable and accepted by `options_of`."""
    return asdict(options)


def beyond_defaults(options: Any) -> dict[str, Value]:
    """Return `as_given` without the options that have their defaults."""
    return {field.name: value for field in fields(options) if (value := getattr(options, field.name)) != field.default}


def _value(hint: Any, value: Value, key: str) -> Value:
    from pydantic import TypeAdapter, ValidationError

    kind: TypeAdapter[Value] = TypeAdapter(hint, config={"allow_inf_nan": False})
    try:
        return kind.validate_strings(value) if isinstance(value, str) else kind.validate_python(value, strict=True)
    except ValidationError:
        allowed = _ALLOWED.get(hint) or " or ".join(map(str, get_args(hint)))
        raise UserError(f"{key}: {value!r} is not allowed; use {allowed}") from None
