"""Configuration files, read strictly: what is refused here is read silently, or run as a program, elsewhere."""

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
    """YAML in which a key stands once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """A mapping; a merge key (<<) may be overridden, as YAML has it."""
        seen: set[Hashable] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            name = self.construct_object(key, deep=True)
            if name in seen:
                raise yaml.MarkedYAMLError(problem=f"the key '{name}' is there twice", problem_mark=key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


def read_config(path: Path) -> dict[str, Any]:
    """Read a configuration: a mapping of plain values (`check_plain`), in UTF-8, each key once, and no program.

    Raises:
        UserError: naming the file and the place.
    """
    check_file(path)
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Strict)  # a SafeLoader
    except RecursionError:
        raise UserError(f"{path}: not YAML (nested too deeply)") from None
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{path}: not YAML ({error})") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds no mapping of keys such as models, data and grid")
    if _PROGRAM in content:
        raise UserError(f"{path}: the key {_PROGRAM} makes the file a program; write its values out")
    try:
        check_plain(content)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return content


def check_files(files: Sequence[Path]) -> Path:
    """Read configuration files as strictly, before Snakemake reads them its way.

    Returns:
        The folder that their sources are relative to: that of the file, of several or none the working directory.

    Raises:
        UserError: naming the file and the place.
    """
    for file in files:
        if not file.exists():
            raise UserError(f"{file.absolute()}: no such file; name the study's, or write one: ltpipe init FOLDER")
        read_config(file)
    return files[0].parent if len(files) == 1 else Path()


def check_plain(config: Any) -> None:
    """Refuse what JSON and file names cannot hold.

    Raises:
        UserError: a value is of another type than JSON has, not finite or not text; the configuration is nested too
            deeply, in itself perhaps, or has too many values, by anchors perhaps.
    """
    waiting: list[tuple[str, Any, int]] = [("configuration", config, 0)]
    for count in range(_VALUES + 1):
        if not waiting:
            return
        if count == _VALUES:
            break
        where, value, depth = waiting.pop()
        if depth > _DEPTH:
            raise UserError(f"{where[:100]} …: nested too deeply; allowed are {_DEPTH} levels")
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
    raise UserError(f"configuration: more than {_VALUES:,} values; allowed are fewer")


def _check_value(where: str, value: Any) -> None:
    if isinstance(value, str):
        _check_text(where, value, "text")
    elif isinstance(value, float) and not isfinite(value):
        raise UserError(f"{where}: {value} is not allowed; allowed are finite numbers")
    elif isinstance(value, int) and abs(value) >= 2**63:
        raise UserError(f"{where}: a whole number of {value.bit_length()} bits; allowed are 63 bits")
    elif not (value is None or isinstance(value, bool | int | float)):
        kind = type(value).__name__
        raise UserError(f"{where}: {str(value)[:50]!r} is a {kind} to YAML; put it in quotes if it is text")


def _check_text(where: str, text: Any, what: str) -> None:
    if not isinstance(text, str):
        raise UserError(f"{where}: {str(text)[:50]!r} is {what} that is no text; put it in quotes")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{where}: {what} holds half a surrogate pair, no character") from None
    if "\0" in text:
        raise UserError(f"{where}: {what} holds a NUL character, which no file name can; leave it out")
