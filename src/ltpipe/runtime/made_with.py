"""The settings an artefact was made with: configuration values in every artefact, which every reader compares.

The environment variable `LTPIPE_MADE_WITH` gives a stage, as JSON, the part of the configuration that its results
depend on, directly or through its inputs. The stage's outputs contain this part, and its inputs must contain a subset
of it. Without the variable (a stage run by hand or a program) nothing is written or compared.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from ltpipe.runtime.errors import OtherSettingsError

VARIABLE = "LTPIPE_MADE_WITH"
ENTRY = "made_with"
"""The name of the entry in an artefact."""
_ADVICE = "delete it and run again, or run snakemake --forceall once"


def asked() -> Mapping[str, Any] | None:
    """Return the configuration's settings for this stage; None if they are not given."""
    text = os.environ.get(VARIABLE)
    return _parsed(text) if text else None


@contextmanager
def asking(settings: Mapping[str, Any] | None) -> Iterator[None]:
    """Read and write artefacts of another job of the study inside the context, with that job's settings."""
    before = os.environ.pop(VARIABLE, None)
    if settings is not None:
        os.environ[VARIABLE] = json.dumps(settings, ensure_ascii=False)
    try:
        yield
    finally:
        os.environ.pop(VARIABLE, None)
        if before is not None:
            os.environ[VARIABLE] = before


def check_made_with(path: Path, found: Mapping[str, Any] | None, wanted: Mapping[str, Any] | None = None) -> None:
    """Reject an artefact made with settings other than those in the configuration.

    Args:
        path: the artefact.
        found: the settings in the artefact; None if it has none.
        wanted: the configuration's settings; None takes those given to the stage, if any.

    Raises:
        OtherSettingsError: the settings differ; the message names the file, the key and both values.
    """
    wanted = asked() if wanted is None else wanted
    if wanted is None:
        return
    wanted = dict(_leaves("", wanted))
    if not isinstance(found, Mapping):
        raise OtherSettingsError(f"{path}: does not record the settings it was made with; {_ADVICE}")
    for key, value in _leaves("", found):
        if key not in wanted:
            raise OtherSettingsError(
                f"{path}: made with {key} {_shown(value)}, which the configuration does not ask for; {_ADVICE}"
            )
        if _text(wanted[key]) != _text(value):
            where, then, now = _difference(key, value, wanted[key])
            raise OtherSettingsError(
                f"{path}: made with {where} {then}, but the configuration asks for {now}; {_ADVICE}"
            )


@cache  # a stage reads thousands of artefacts
def _parsed(text: str) -> Mapping[str, Any]:
    content: Mapping[str, Any] = json.loads(text)
    return content


def _leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield all values inside nested mappings, with their keys joined by dots."""
    if not isinstance(value, Mapping):
        yield key, value
        return
    for name, below in value.items():
        yield from _leaves(f"{key}.{name}" if key else name, below)


def _difference(key: str, then: Any, now: Any) -> tuple[str, str, str]:
    """Return where two values differ, and both values there; lists of (name, value) pairs are compared by name."""
    if _are_pairs(then) and _are_pairs(now):
        before, after = ({name: _shown(value) for name, value in pairs} for pairs in (then, now))
        for name in sorted(before.keys() | after.keys()):
            if before.get(name) != after.get(name):
                return f"{key}.{name}", before.get(name, "left out"), after.get(name, "none")
    return key, _shown(then), _shown(now)


def _are_pairs(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(each, list) and len(each) == 2 and isinstance(each[0], str) for each in value
    )


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else _text(value)


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)  # 1 is not true
