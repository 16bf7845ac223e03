"""JSON files, read strictly; records are JSON files with their own checksum."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from ltpipe.runtime.errors import MEND, MEND_ANY, DamagedFileError
from ltpipe.runtime.files import atomic_write, check_file
from ltpipe.runtime.made_with import ENTRY, asked, check_made_with

_SEAL = re.compile(rb',\n "sha256": "([0-9a-f]{64})"\n}\n')
"""The end of a record."""


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write `content` as indented JSON, floats at full precision; NaN and infinities raise ValueError."""
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    with atomic_write(path) as file:
        file.write(text.encode() + b"\n")


def read_object(text: str) -> Any:
    """Parse JSON strictly, rejecting duplicate keys, NaN and infinities.

    Raises:
        ValueError: the text is not strict JSON.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) < len(pairs):
            twice = next(key for index, (key, _) in enumerate(pairs) if key in dict(pairs[:index]))
            raise ValueError(f"the key '{twice}' appears twice")
        return content

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not a JSON number")

    try:
        return json.loads(text, object_pairs_hook=once, parse_constant=refuse)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object (`read_object`); errors name the file if it is missing or damaged."""
    return parse_json(path, _read(path))


def parse_json(path: Path, text: bytes) -> dict[str, Any]:
    """Parse what a JSON file holds: an object (`read_object`); `path` is for messages."""
    try:
        content = read_object(text.decode())
    except ValueError as error:
        raise DamagedFileError(f"{path}: not valid JSON ({error}); {MEND_ANY}") from None
    if not isinstance(content, dict):
        raise DamagedFileError(f"{path}: contains a JSON {type(content).__name__}, expected an object; {MEND_ANY}")
    return content


def write_record(path: Path, content: dict[str, Any]) -> None:
    """Write JSON like `write_json`, plus the stage's settings, if known, and the SHA-256 of all preceding bytes.

    Raises:
        ValueError: `content` is empty, or contains a NaN or an infinity.
    """
    if not content:
        raise ValueError("a record cannot be empty")
    said = content if (settings := asked()) is None else {**content, ENTRY: settings}
    text = json.dumps(said, indent=1, ensure_ascii=False, allow_nan=False).encode().removesuffix(b"\n}")
    with atomic_write(path) as file:
        file.write(text + b',\n "sha256": "' + hashlib.sha256(text).hexdigest().encode() + b'"\n}\n')


def read_record(path: Path) -> dict[str, Any]:
    """Read a file that `write_record` wrote, unchanged since; the settings it was made with are dropped.

    Raises:
        UserError: there is no such file.
        OtherSettingsError: it was made with settings other than those in the configuration.
        DamagedFileError: the file is not a record, or it changed.
    """
    text = _read(path)
    content = parse_json(path, text)
    start = text.rfind(b',\n "sha256": "')
    seal = _SEAL.fullmatch(text, max(start, 0))
    if content.pop("sha256", None) is None:
        raise DamagedFileError(f"{path}: no checksum, so not written by this version of ltpipe; {MEND}")
    if seal is None or hashlib.sha256(text[:start]).hexdigest().encode() != seal[1]:
        raise DamagedFileError(f"{path}: damaged: does not match its checksum; {MEND}")
    check_made_with(path, content.pop(ENTRY, None))
    return content


def _read(path: Path) -> bytes:
    check_file(path)
    return path.read_bytes()
