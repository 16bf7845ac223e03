"""Strict reading of configuration files: it refuses what other readers accept silently or run as a program."""

from collections.abc import Hashable, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

import yaml

from ltpipe.runtime.errors import UserError
from ltpipe.runtime.files import check_file

_DEPTH, _VALUES = 50, 1_000_000
_PROGRAM = "__use_yte__"
"""Makes Snakemake evaluate a configuration's values as Python."""


class _Strict(yaml.SafeLoader):
    """YAML in which no key appears twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Construct a mapping; keys from a merge key (<<) may be overridden, as in YAML."""
        seen: set[Hashable] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            name = self.construct_object(key, deep=True)
            if name in seen:
                raise yaml.MarkedYAMLError(problem=f"the key '{name}' appears twice", problem_mark=key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


def read_config(path: Path) -> dict[str, Any]:
    """Read a configuration: UTF-8, a mapping of plain values (`check_plain`), no key twice, and no program.

    Raises:
        UserError: the file is invalid; names the file and the place.
    """
    check_file(path)
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Strict)  # a SafeLoader
    except RecursionError:
        raise UserError(f"{path}: not YAML (nested too deeply)") from None
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{path}: not YAML ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a mapping; write keys such as models, data and grid")
    if _PROGRAM in content:
        raise UserError(f"{path}: the key {_PROGRAM} turns the file into a program; remove it and write out the values")
    try:
        check_plain(content)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return content


def check_files(files: Sequence[Path]) -> Path:
    """Check configuration files strictly before Snakemake reads them its own way.

    Returns:
        The folder that their sources are relative to: the file's folder, or the working directory for several or none.

    Raises:
        UserError: a file is missing or invalid; names the file and the place.
    """
    for file in files:
        if not file.exists():
            raise UserError(f"{file.absolute()}: no such file; name a study's, or create one: ltpipe init FOLDER")
        read_config(file)
    return files[0].parent if len(files) == 1 else Path()


def check_plain(config: Any) -> None:
    """Refuse values that JSON or file names cannot represent.

    Raises:
        UserError: a value has a type that JSON lacks, is not finite or is not valid text; or the configuration is
            nested too deeply (perhaps in itself) or has too many values (perhaps through anchors).
    """
    waiting: list[tuple[str, Any, int]] = [("configuration", config, 0)]
    for count in range(_VALUES + 1):
        if not waiting:
            return
        if count == _VALUES:
            break
        where, value, depth = waiting.pop()
        if depth > _DEPTH:
            raise UserError(f"{where[:100]} …: nested too deeply; use at most {_DEPTH} levels")
        if isinstance(value, dict):
            for key in value:
                _check_text(where, key, "a key")
            below = [(f"{where}.{key}" if depth else str(key), each) for key, each in value.items()]
        elif isinstance(value, list):
            below = [(f"{where}[{index}]", each) for index, each in enumerate(value)]
        else:
            _check_value(where, value)
            continue
        waiting += [(*each, depth + 1) for each in reversed(below)]
        if len(waiting) > _VALUES:
            break
    raise UserError(f"configuration: more than {_VALUES:,} values; use fewer")


def _check_value(where: str, value: Any) -> None:
    if isinstance(value, str):
        _check_text(where, value, "text")
    elif isinstance(value, float) and not isfinite(value):
        raise UserError(f"{where}: {value} is not allowed; use a finite number")
    elif isinstance(value, int) and abs(value) >= 2**63:
        raise UserError(f"{where}: an integer of {value.bit_length()} bits is not allowed; use at most 63 bits")
    elif not (value is None or isinstance(value, bool | int | float)):
        kind = type(value).__name__
        raise UserError(f"{where}: {str(value)[:50]!r} is a {kind} in YAML; put it in quotes if it is text")


def _check_text(where: str, text: Any, what: str) -> None:
    if not isinstance(text, str):
        raise UserError(f"{where}: {str(text)[:50]!r} is {what} that is not text; put it in quotes")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{where}: {what} contains half a surrogate pair; replace it with a character") from None
    if "\0" in text:
        raise UserError(f"{where}: {what} contains a NUL character, which file names cannot; remove it")
