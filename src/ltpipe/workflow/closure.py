"""The modules of a package that a script depends on: editing one reruns the script's stage and no other."""

import ast
import hashlib
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

_DATA = (".json", ".html", ".css", ".js")
_SUITES = ("body", "orelse", "finalbody", "handlers", "cases")
"""Where a statement holds other statements."""


def import_closure(script: Path, package: Path) -> list[Path]:
    """Files of `package` that `script` depends on, directly or through other modules of the package, sorted.

    Imports anywhere in a file count, also inside functions, except those for type checkers alone. A module brings the
    packages above it and the data files (templates, styles) in its folder.

    Args:
        script: a Python file.
        package: folder of the package, `src/ltpipe` for example; its name is the package's.
    """
    found: set[Path] = set()
    known: set[str] = set()
    waiting = [script]
    while waiting:
        names = _imported_names(waiting.pop().read_text(encoding="utf-8")) - known
        known |= names
        new = {path for name in names for path in _files(name, package)} - found
        found |= new
        waiting.extend(path for path in new if path.suffix == ".py")
    return sorted(found)


def module_closure(name: str) -> list[Path]:
    """Files below the working folder that importing a module runs, with those of its own package, sorted."""
    parts = name.split(".")
    places = [Path(*parts[: depth + 1]) for depth in range(len(parts))]
    files = {file for place in places for file in (place / "__init__.py", place.with_suffix(".py")) if file.is_file()}
    return sorted(files.union(*(import_closure(file, places[0]) for file in files)))


def digest(files: Iterable[Path], *folders: Path) -> str:
    """SHA-256 of the names and contents of files, in hexadecimal; their order and their times do not matter.

    Args:
        files: each below one of `folders`.
        folders: names begin in the first that a file lies in, so that they are the same wherever the code lies.
    """
    found = hashlib.sha256()
    for name, path in sorted((_name(path, folders), path) for path in files):
        content = path.read_bytes()
        found.update(f"{name} {len(content)}\n".encode() + content)
    return found.hexdigest()


def _name(path: Path, folders: Sequence[Path]) -> str:
    folder = next(folder for folder in folders if path.is_relative_to(folder))
    return path.relative_to(folder).as_posix()


@cache  # of many scripts that share most modules, each is parsed once
def _imported_names(code: str) -> frozenset[str]:
    """Dotted names that a file's code imports; `from a import b` gives a and a.b, since b may be a module."""
    names: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(code)]  # statements only, since expressions import nothing
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            waiting.extend(node.orelse)
            continue
        for suite in _SUITES:
            waiting.extend(getattr(node, suite, ()))
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(names)


@cache  # the same packages are above many modules
def _files(name: str, package: Path) -> frozenset[Path]:
    """Return the files that importing `name` runs: its own, and the __init__ of every package above it."""
    top, *parts = name.split(".")
    if top != package.name:
        return frozenset()
    place = package.joinpath(*parts)
    own = {file for file in (place / "__init__.py", place.with_suffix(".py")) if file.is_file()}
    data = {each for file in own for each in file.parent.iterdir() if each.suffix in _DATA}
    above = _files(name.rpartition(".")[0], package) if parts else frozenset()
    return above | own | data
