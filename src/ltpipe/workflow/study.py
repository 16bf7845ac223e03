"""A checked configuration as what it asks for, whatever it is written like and wherever it runs."""

from typing import Any

AXES = frozenset({"criteria", "scopes", "sparsities", "seeds", "data", "perturbations", "replicates", "transplanted"})
"""Lists whose order says nothing."""
ELSEWHERE = (
    ("threads",),
    ("evaluate", "device_memory"),
    ("evaluate", "devices"),
    ("imp", "*", "compute", "save_every"),
)
"""Keys that change no result: what a machine has to give. `*` stands for any name."""


def as_asked(config: dict[str, Any]) -> dict[str, Any]:
    """A copy without what changes no result, all mappings in the order of their keys and all axes in that of values."""
    for path in ELSEWHERE:
        config = _without(config, *path)
    return _ordered(config)


def _without(config: dict[str, Any], key: str, *below: str) -> dict[str, Any]:
    if not below:
        return {name: value for name, value in config.items() if name != key}
    return {name: _without(value, *below) if key in ("*", name) else value for name, value in config.items()}


def _ordered(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _ordered(value[name], name) for name in sorted(value)}
    return sorted(value) if isinstance(value, list) and key in AXES else value
