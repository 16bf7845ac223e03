"""Options of a criterion or scope: a frozen dataclass in its own file, filled from a configuration or command line.

A field is a float, an int, a bool or a `Literal` of words, and has a default. `__post_init__` checks anything beyond
the type and raises a UserError that starts with the field's name.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from math import isfinite
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from ltpipe.runtime.errors import UserError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")
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
    words = value if isinstance(value, str) else None
    if get_origin(hint) is Literal:
        if value in get_args(hint):
            return value
        allowed = " or ".join(map(str, get_args(hint)))
    elif hint is bool:
        truth = {"true": True, "false": False}.get(words.lower()) if words is not None else value
        if isinstance(truth, bool):
            return truth
        allowed = "true or false"
    else:
        number = _number(hint, value)
        if number is not None:
            return number
        allowed = "a whole number" if hint is int else "a number"
    raise UserError(f"{key}: {value!r} is not allowed; use {allowed}")


def _number(hint: type, value: Value) -> Value | None:
    if isinstance(value, bool) or (hint is int and isinstance(value, float)):
        return None
    try:
        number = hint(value)
    except (ValueError, OverflowError):
        return None
    return number if isfinite(number) else None
