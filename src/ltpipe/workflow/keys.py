"""The configuration keys that the jobs of a rule depend on."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltpipe.runtime.labels import name_of, recovery_of, settings_of
from ltpipe.workflow.grid import Config

Axes = Mapping[str, str]
"""The wildcards of a job, by name."""
KeyPath = tuple[str, ...]
"""A configuration key as a tuple of parts, since names may contain dots."""


def _always(_: Config, __: Axes) -> bool:
    return True


def _by_name(values: dict[str, Any]) -> dict[str, Any]:
    return values


@dataclass(frozen=True)
class Key:
    """A key of the configuration that a rule's jobs depend on.

    Attributes:
        pattern: the key, with wildcards for the names that a job has; `.*` at the end means all keys below.
        when: whether the key matters to a job; if not, changing it reruns nothing.
        options: function that returns the command's options from values by the last parts of their keys; usually the
            options have the same names.
        rounding: the key changes results only by float rounding: jobs run again, but existing results are accepted.
        without: keys below that do not matter to the rule.
        ordered: the value is a mapping whose order matters: it becomes a list of pairs.
        axis: the value is a list whose order does not matter: it is sorted.
    """

    pattern: str
    when: Callable[[Config, Axes], bool] = _always
    options: Callable[[dict[str, Any]], dict[str, Any]] = _by_name
    rounding: bool = False
    without: frozenset[str] = frozenset()
    ordered: bool = False
    axis: bool = False

    def values(self, config: Config, axes: Axes) -> Iterator[tuple[KeyPath, Any]]:
        """Yield the keys that a job depends on, with the wildcards filled in, and their values."""
        if not self.when(config, axes):
            return
        axes = _with_parts_of_labels(axes)
        parts = self.pattern.split(".")
        path = tuple(part.format(**axes) for part in parts)
        below = path[-1] == "*"
        value: Any = config
        for part, name in zip(parts[: -1 if below else None], path, strict=False):
            # What is asked for by its name may be of no cell of the grid, and has no settings of its own there.
            value = value.get(name, {}) if "{" in part else value[name]
        if not below:
            if self.ordered:
                value = [[*pair] for pair in value.items()]
            yield path, _plain(sorted(value) if self.axis else value)
            return
        for name in sorted((value or {}).keys() - self.without):
            yield (*path[:-1], name), _plain(value[name])


def _with_parts_of_labels(axes: Axes) -> Axes:
    """Return axes with the parts of labels as axes of their own: `text`, `settings`, `ranking` and `recovery`."""
    data, criterion = axes.get("data", ""), axes.get("criterion", "")
    parts = {"text": name_of(data), "settings": settings_of(data), "ranking": name_of(criterion)}
    return {"recovery": recovery_of(criterion), **axes, **parts}


Job = tuple[str, Axes]
"""A rule and the axes of one of its jobs."""


def _nothing(_: Config, __: Axes) -> Iterable[Job]:
    return ()


def _no_modules(_: Config, __: Axes) -> list[Path]:
    return []


@dataclass(frozen=True)
class Rule:
    """What the jobs of a rule depend on.

    Attributes:
        keys: keys that the rule itself depends on.
        inputs: jobs whose results a job reads; it also depends on what they depend on.
        modules: modules that a job's script imports by name, without an import statement.
        script: name of their script in `scripts/`; empty if it is that of the rule.
    """

    keys: tuple[Key, ...] = ()
    inputs: Callable[[Config, Axes], Iterable[Job]] = _nothing
    modules: Callable[[Config, Axes], list[Path]] = _no_modules
    script: str = ""


def _plain(value: Any) -> Any:
    """Return a value in comparable form: 2.0 becomes 2, and mappings are sorted by their keys."""
    if isinstance(value, Mapping):
        return {name: _plain(value[name]) for name in sorted(value)}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
