"""Artefacts that say something else than was meant, with checksums of what they now say: not damaged, but wrong.

Without them a changed file would be refused for its checksum alone, and nothing behind that would be tried.
"""

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np

from ltpipe.checkpoints.header import BEFORE_DIGESTS, DIGESTS, WIDTH, hexadecimal, seal
from ltpipe.runtime.digest import digest
from ltpipe.runtime.files import sha256_of
from ltpipe.runtime.jsonfiles import read_record, write_record
from ltpipe.runtime.sums import Sums, sums_file, write_sums


def parts(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and tensors of a safetensors file."""
    size = struct.unpack("<Q", content[:8])[0]
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def sealed(header: Any, payload: bytes) -> bytes:
    """A safetensors file of them; checksums of what the header makes no sense of are zeros."""
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    if isinstance(metadata, dict):
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        digests = [_digest(entry, payload) for entry in entries.values()]
        said = {key: text for key, text in metadata.items() if key != DIGESTS}
        header = {"__metadata__": {DIGESTS: "0" * WIDTH * (1 + len(digests))} | said} | entries
    text = json.dumps(header, separators=(",", ":")).encode()
    if text.startswith(BEFORE_DIGESTS):
        text = seal(text, digests)
    return struct.pack("<Q", len(text)) + text + payload


def _digest(entry: Any, payload: bytes) -> str:
    try:
        begin, end = entry["data_offsets"]
        return hexadecimal(digest(np.frombuffer(payload[begin:end], np.uint8)))
    except (KeyError, TypeError, ValueError):
        return "0" * WIDTH


def rewritten(path: Path, **changes: object) -> Path:
    """A record with other entries; where JSON has no words for them, as Python writes them and without checksum."""
    content = read_record(path) | changes
    try:
        write_record(path, content)
    except ValueError:
        path.write_text(json.dumps(content))
    return path


def copied(source: Path, target: Path, **changes: object) -> Path:
    """A copy of a record with other entries."""
    return rewritten(Path(shutil.copy(source, target)), **changes)


def table(path: Path, text: str) -> None:
    """A table that holds this text; in a report, so that the report lists it."""
    sums = sums_file(path)
    listed = dict(Sums.read(sums).digests) if sums.is_file() else {}
    path.write_text(text)
    write_sums(sums, listed | {path.name: sha256_of(path)})
