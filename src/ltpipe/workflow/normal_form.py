"""The normal form of a checked configuration, independent of how it is written and where it runs."""

from typing import Any

import yaml

AXES = frozenset({"criteria", "scopes", "sparsities", "seeds", "data", "perturbations", "replicates", "transplanted"})
"""Lists whose order does not matter."""
ELSEWHERE = (
    ("threads",),
    ("evaluate", "device_memory"),
    ("evaluate", "devices"),
    ("evaluate", "tickets_per_pass"),
    ("imp", "*", "compute", "save_every"),
    ("recover", "*", "compute", "save_every"),
)
"""Keys of resources, which change no result. `*` stands for any name."""


def as_asked(config: dict[str, Any]) -> dict[str, Any]:
    """Return a copy without keys that change no result, with mappings sorted by key and axes by value."""
    for path in ELSEWHERE:
        config = _without(config, *path)
    return _ordered(config)


def as_text(config: dict[str, Any]) -> str:
    """Return the normal form as YAML without anchors, with escaped line breaks: equal studies give equal text."""
    return yaml.dump(as_asked(config), Dumper=_Plain, allow_unicode=True, sort_keys=False)


class _Plain(yaml.SafeDumper):
    def ignore_aliases(self, _: Any) -> bool:
        return True


def _text(dumper: _Plain, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if "\n" in text else None)


_Plain.add_representer(str, _text)


def _without(config: dict[str, Any], key: str, *below: str) -> dict[str, Any]:
    if not below:
        return {name: value for name, value in config.items() if name != key}
    return {name: _without(value, *below) if key in ("*", name) else value for name, value in config.items()}


def _ordered(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _ordered(value[name], name) for name in sorted(value)}
    return sorted(value) if isinstance(value, list) and key in AXES else value
