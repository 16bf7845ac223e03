"""A checked configuration as what it asks for, whatever it is written like and wherever it runs."""

from copy import deepcopy
from typing import Any

AXES = frozenset({"criteria", "scopes", "sparsities", "seeds", "data", "perturbations", "replicates", "transplanted"})
"""Lists whose order says nothing."""
ELSEWHERE = (("threads",), ("evaluate", "device_memory"))
"""Keys that change no result: what a machine has to give."""


def as_asked(config: dict[str, Any]) -> dict[str, Any]:
    """A copy without what changes no result, all mappings in the order of their keys and all axes in that of values."""
    asked = deepcopy(config)
    for *path, key in ELSEWHERE:
        section = asked
        for name in path:
            section = section[name]
        del section[key]
    return _ordered(asked)


def _ordered(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _ordered(value[name], name) for name in sorted(value)}
    return sorted(value) if isinstance(value, list) and key in AXES else value
