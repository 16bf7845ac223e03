"""The first mistake of a configuration as one line: the key, the value, and what is accepted."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from ltpipe.runtime.errors import did_you_mean
from ltpipe.workflow.configuration.section import Section, alternatives, meaning
from ltpipe.workflow.configuration.study import StudySection
from ltpipe.workflow.configuration.training import TASKS, TaskSection

_OF_KEY = "[key]"
"""Pydantic's last part of the location of an error in a name of the user's."""


def first_mistake(error: ValidationError) -> str:
    """Return the mistake nearest the top, by the order of the keys, and how many more there are."""
    found: dict[tuple[str, ...], str] = {}
    for each in error.errors(include_url=False):
        place = _Place.of(each)
        found.setdefault(tuple(map(str, place.path)), _line(each, place))
    more = f" ({len(found) - 1} more mistake{'s' if len(found) > 2 else ''} in the file)" if len(found) > 1 else ""
    return found[min(found)] + more


@dataclass(frozen=True)
class _Place:
    """Where a mistake is.

    Attributes:
        path: names of keys, and numbers of list items.
        annotation: type of what is accepted there.
        expected: the same in words.
    """

    path: tuple[str | int, ...]
    annotation: Any
    expected: str = ""

    @classmethod
    def of(cls, error: ErrorDetails) -> "_Place":
        """Follow an error's location as far as it names keys; after alternatives it goes on with names of types."""
        location = error["loc"]
        if error["type"] == "missing":
            location = location[:-1]
        if location[-1:] == (_OF_KEY,):
            return cls.at(location[:-2])._inside((), 0) or cls.at(location)
        return cls.at(location)

    @classmethod
    def at(cls, location: Sequence[str | int]) -> "_Place":
        place = cls((), StudySection)
        for part in location:
            below = place._below(part)
            if below is None:
                break
            place = below
        return place

    @property
    def key(self) -> str:
        text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.path)
        return text.removeprefix(".") or "configuration"

    @property
    def fields(self) -> dict[str, FieldInfo]:
        """The keys that may stand here."""
        return next((kind.model_fields for kind in self._kinds if _is_section(kind)), {})

    @property
    def _kinds(self) -> list[Any]:
        return alternatives(self.annotation)

    def _below(self, part: str | int) -> "_Place | None":
        if sum(map(_is_section, self._kinds)) > 1:  # the kinds of task, of which the location names one
            return _Place(self.path, TASKS.get(str(part), TaskSection), self.expected)
        if part in self.fields:
            field = self.fields[str(part)]
            return _Place((*self.path, part), field.annotation, meaning(field))
        return self._inside((part,), -1)

    def _inside(self, part: tuple[str | int, ...], index: int) -> "_Place | None":
        """The place of a list's item, of a mapping's value, or (index 0, no part) of its keys."""
        for kind in self._kinds:
            if get_origin(kind) in (dict, list):
                annotation = get_args(kind)[index]
                described = [each.description for each in get_args(annotation)[1:] if isinstance(each, FieldInfo)]
                return _Place((*self.path, *part), annotation, (described or [None])[0] or self.expected)
        return None


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Section)


def _line(error: ErrorDetails, place: _Place) -> str:
    value, name = error["input"], str(error["loc"][-1]) if error["loc"] else ""
    match error["type"]:
        case "extra_forbidden":
            known = sorted(place.fields)
            return f"{place.key}: unknown key '{name}'{did_you_mean(name, known)}; use {', '.join(known)}"
        case "missing":
            return f"{place.key}: the key '{name}' is missing; expected: {meaning(place.fields[name])}"
        case "duplicate":
            return f"{place.key}: {error['msg']}; expected: {place.expected}"
        case "value_error":
            message = str(error["ctx"]["error"])
            return f"{place.key}{'' if message[0] in '.[' else ': '}{message}"
    hint = _hint(value) if error["type"].endswith("_type") and isinstance(value, str) else ""
    return f"{place.key}: {value!r} is not allowed{hint}; expected: {place.expected}"


def _hint(text: str) -> str:
    """Return a hint at what is meant by text where another type is expected."""
    if re.fullmatch(r"[+-]?[0-9.]+([eE][+-]?[0-9]{1,2})?", text) and text.count(".") < 2:
        return f" (YAML reads it as text; write {float(text)})"
    return " (is a space missing after ':'?)" if re.search(r"\w:\S", text) else ""
