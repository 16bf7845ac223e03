"""Formats options and many files for one command line."""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any


def as_options(values: Mapping[str, Any]) -> str:
    """Return values as a command's options, quoted for a shell: `--top-k=8 --include 'a*' b`.

    Args:
        values: values by the names of the command's arguments. None is left out; a list gives several words, a mapping
            each name and its value, and a bool `--name` or `--no-name`.
    """
    return " ".join(_option(name.replace("_", "-"), value) for name, value in values.items() if value is not None)


def _option(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return f"--{'' if value else 'no-'}{name}"
    if isinstance(value, Mapping):
        value = [part for pair in value.items() for part in pair]
    if isinstance(value, list):
        return " ".join([f"--{name}", *(shlex.quote(str(part)) for part in value)])
    return f"--{name}={shlex.quote(str(value))}"  # with =, since a value may begin with a dash


def braced(paths: Iterable[str]) -> str:
    """Return paths in Bash's brace notation, which names each folder once: `a/{b/{1,2},c}` for a/b/1, a/b/2 and a/c.

    Linux limits a shell command to 128 KiB, about 1,500 files of a sweep by their full names. In brace notation several
    times as many fit. Bash expands them in the order given, and a program then accepts about 20,000 (2 MiB).

    Args:
        paths: paths of files, without duplicates.
    """
    return _braced([path.split("/") for path in paths])


def _braced(paths: Sequence[list[str]]) -> str:
    words = []
    for folder, members in groupby(paths, key=itemgetter(0)):
        below = [path[1:] for path in members if path[1:]]
        words.append(_quoted(folder) + (f"/{_braced(below)}" if below else ""))
    return words[0] if len(words) == 1 else f"{{{','.join(words)}}}" if words else ""


def _quoted(name: str) -> str:
    """Quote a name for Bash, also inside braces, where a comma would split it."""
    return name if re.fullmatch(r"[\w.-]+", name, re.ASCII) else "'" + name.replace("'", "'\\''") + "'"
