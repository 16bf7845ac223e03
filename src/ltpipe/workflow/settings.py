"""The settings of a job as one value: the keys of the configuration that it depends on, and its code.

Snakemake compares the *set* of a job's params, so it misses values that swap places or become equal. A rule therefore
has one param, `settings`: the digest of its script's code, its wildcards, the options of its command, and what its
results are made with (`ltpipe.runtime.made_with`), all as text. The command is built from the same text.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from ltpipe.runtime.sources import Source
from ltpipe.workflow.arguments import as_options
from ltpipe.workflow.code import code_digest
from ltpipe.workflow.keys import Axes, Config, KeyPath
from ltpipe.workflow.rules import RULES

_DRAWS = frozenset({"seed", "sparsity", "perturbation", "perturbation_seed", "replicate", "order", "round"})
"""Axes that do not affect which keys a job depends on."""


@dataclass(frozen=True, eq=False)
class JobSettings:
    """The settings of a study's jobs.

    Attributes:
        config: checked, with all defaults.
    """

    config: Config
    _texts: dict[Any, dict[str, str]] = field(default_factory=dict, repr=False)
    _known: dict[Any, dict[KeyPath, Any]] = field(default_factory=dict, repr=False)

    def of(self, rule: str, axes: Axes) -> dict[str, Any]:
        """Return a job's settings: `code`, `axes`, `options` (words of a shell command) and `made_with` (JSON).

        They are plain values in one dict: Snakemake records no others (no `Path`, no NumPy number), and a dict keeps
        their names.
        """
        place = _place(rule, axes)
        if place not in self._texts:
            options: dict[str, Any] = {}
            for key in RULES[rule].keys:
                values = {path[-1]: value for path, value in key.values(self.config, axes)}
                options |= key.options(values) if values else {}
            made_with = json.dumps(self.made_with(rule, axes), ensure_ascii=False)
            self._texts[place] = {"options": as_options(options), "made_with": made_with}
        code = code_digest(RULES[rule].script or rule, *RULES[rule].modules(self.config, axes))
        return {"code": code, "axes": dict(axes), **self._texts[place]}

    def made_with(self, rule: str, axes: Axes) -> dict[str, Any]:
        """Return the part of the configuration that a job's results depend on, also through its inputs.

        A source that has a version is followed by it.
        """
        part: dict[str, Any] = {}
        for path, value in sorted(self._depends_on(rule, axes).items()):
            below = part
            for name in path[:-1]:
                below = below.setdefault(name, {})
            below[path[-1]] = value
        return part

    def _depends_on(self, rule: str, axes: Axes) -> dict[KeyPath, Any]:
        place = _place(rule, axes)
        if place not in self._known:
            found: dict[KeyPath, Any] = {}
            for job in RULES[rule].inputs(self.config, axes):
                found |= self._depends_on(*job)
            for key in RULES[rule].keys:
                if not key.rounding:
                    for path, value in key.values(self.config, axes):
                        found |= {path: _paired(value)} | dict(_versions(path, value))
            self._known[place] = found
        return self._known[place]


def _place(rule: str, axes: Axes) -> tuple[str, frozenset[tuple[str, str]]]:
    return rule, frozenset((name, value) for name, value in axes.items() if name not in _DRAWS)


def _versions(path: KeyPath, value: Any) -> Iterator[tuple[KeyPath, str]]:
    """Yield the version of a package, which pins the content of a source together with its text."""
    if path[0] == "imp" and path[2:] == ("task",):
        yield from _versions((*path[:-1], "source"), value.get("source"))
    elif isinstance(value, str) and path[-1] in ("source", "tokenizer", "folder"):
        identity = _identity(value)
        if identity != value:
            yield (*path[:-1], f"{path[-1]} version"), identity.removeprefix(value).strip()


@cache  # of thousands of jobs
def _identity(source: str) -> str:
    return Source(source).identity


def _paired(value: Any) -> Any:
    """Return a mapping that is one value, such as options, as pairs, so that comparisons treat it as a whole."""
    return [[*pair] for pair in value.items()] if isinstance(value, Mapping) else value
