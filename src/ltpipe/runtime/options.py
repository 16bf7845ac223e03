"""Options of a criterion or a scope: a frozen dataclass in its own file, filled from a configuration or a command line.

A field is a number, a whole number, true or false, or one of some words (`Literal`), and has a default. What a type
does not say, `__post_init__` refuses with a UserError that begins with the name of the field.
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
"""Names of options to values: those of a configuration, or their words on a command line."""


@dataclass(frozen=True)
class NoOptions:
    """Nothing to choose."""


def options_of(kind: type[T], given: Given, key: str) -> T:
    """Fill the options that something has.

    Args:
        kind: dataclass of the options; those that are not given have their defaults.
        given: to values, or to the words that a command line has for them.
        key: what to call the options in messages.

    Raises:
        UserError: there is no such option, or it cannot have this value.
    """
    hints = get_type_hints(kind)
    known = {field.name: hints[field.name] for field in fields(kind)}
    for name in given:
        if name not in known:
            raise UserError(f"{key}: unknown option '{name}'; allowed: {', '.join(known) or 'none'}")
    values = {name: _value(known[name], value, f"{key}.{name}") for name, value in given.items()}
    try:
        return kind(**values)
    except UserError as error:
        raise UserError(f"{key}.{error}") from None


def as_given(options: Any) -> dict[str, Value]:
    """All options with their values: what `options_of` makes the same options of, and JSON can hold."""
    return asdict(options)


def beyond_defaults(options: Any) -> dict[str, Value]:
    """As `as_given`, without those that have their defaults."""
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
    raise UserError(f"{key}: {value!r} is not allowed; allowed: {allowed}")


def _number(hint: type, value: Value) -> Value | None:
    if isinstance(value, bool) or (hint is int and isinstance(value, float)):
        return None
    try:
        number = hint(value)
    except (ValueError, OverflowError):
        return None
    return number if isfinite(number) else None
