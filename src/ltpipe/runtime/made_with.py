"""What artefacts were made with: values of the configuration, written into every artefact and compared by every reader.

A stage is told by the environment variable `LTPIPE_MADE_WITH` what the configuration asks for, as JSON: the part of the
configuration that its results depend on, through its inputs too. What it writes carries this part, and what it reads
has to carry a part of it. Without the variable, by hand or in a program, nothing is written or compared.
"""

import json
import os
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ltpipe.runtime.errors import OtherSettingsError

VARIABLE = "LTPIPE_MADE_WITH"
ENTRY = "made_with"
"""What the entry of an artefact is called."""
_ADVICE = "delete it and run again, or run snakemake --forceall once"


def asked() -> Mapping[str, Any] | None:
    """What the configuration asks for; None where nobody has said it."""
    text = os.environ.get(VARIABLE)
    return _parsed(text) if text else None


def check_made_with(path: Path, found: Mapping[str, Any] | None, wanted: Mapping[str, Any] | None = None) -> None:
    """Refuse an artefact that was made with other settings than the configuration asks for.

    Args:
        path: of the artefact.
        found: what it says that it was made with; None where it says nothing.
        wanted: what the configuration asks for; None takes what the stage was told, if it was.

    Raises:
        OtherSettingsError: naming the file, the key and both values.
    """
    wanted = asked() if wanted is None else wanted
    if wanted is None:
        return
    wanted = dict(_leaves("", wanted))
    if not isinstance(found, Mapping):
        raise OtherSettingsError(f"{path}: does not say what it was made with; {_ADVICE}")
    for key, value in _leaves("", found):
        if key not in wanted:
            raise OtherSettingsError(
                f"{path}: made with {key} {_shown(value)}, which the configuration does not ask for; {_ADVICE}"
            )
        if _text(wanted[key]) != _text(value):
            where, then, now = _difference(key, value, wanted[key])
            raise OtherSettingsError(f"{path}: made with {where} {then}, the configuration asks for {now}; {_ADVICE}")


@cache  # a stage reads thousands of artefacts
def _parsed(text: str) -> Mapping[str, Any]:
    content: Mapping[str, Any] = json.loads(text)
    return content


def _leaves(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """All values inside mappings, by their keys with dots between them."""
    if not isinstance(value, Mapping):
        yield key, value
        return
    for name, below in value.items():
        yield from _leaves(f"{key}.{name}" if key else name, below)


def _difference(key: str, then: Any, now: Any) -> tuple[str, str, str]:
    """Where two values differ, and what they say there; the name is given where both are pairs of names and values."""
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
