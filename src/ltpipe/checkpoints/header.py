"""The header of a safetensors file: where each tensor is, and the digests in files that ltpipe wrote.

The format (https://github.com/huggingface/safetensors) is an 8-byte little-endian header length, a JSON header and
the tensors' bytes. Files written by ltpipe contain digests of the header and of every tensor, in the first entry of the
metadata. Files from other tools have none. A file by ltpipe can also list tensors whose bytes are in other files.
"""

import hashlib
import json
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path

import numpy as np

from ltpipe.runtime.errors import MEND, MEND_ANY, DamagedFileError
from ltpipe.runtime.files import check_file
from ltpipe.runtime.jsonfiles import read_object

STORAGE: dict[str, type[np.generic]] = {
    "BOOL": np.bool_,
    "U8": np.uint8,
    "U16": np.uint16,
    "I32": np.int32,
    "I64": np.int64,
    "F16": np.float16,
    "BF16": np.uint16,
    "F32": np.float32,
    "F64": np.float64,
}
"""Safetensors dtype names that ltpipe reads and writes, with the NumPy dtype that holds their bits."""

FOREIGN = (
    *("F4", "F6_E2M3", "F6_E3M2", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"),
    *("I16", "U32", "U64", "C64"),
)
"""Further dtype names that other tools write: such tensors may exist but cannot be read as arrays."""

TORCH_NAMES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I32": "int32",
    "I64": "int64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
}
"""Torch names of the dtypes allowed in a canonical checkpoint."""

DIGESTS = "ltpipe_digests"
"""The metadata entry for the digests: the header's, then the tensors' in order."""
ELSEWHERE = "ltpipe_elsewhere"
"""The metadata entry for tensors in other files, as JSON: by file name (relative to the folder of the header's file)
its length and, by tensor name, the tensor's entry and digest."""
BEFORE_DIGESTS = f'{{"__metadata__":{{"{DIGESTS}":"'.encode()
WIDTH = 16
"""Hexadecimal digits of a digest."""
_NONE = "0" * WIDTH
_HEADER_LIMIT = 100 * 2**20
_ALIGNMENT = 64


@dataclass(frozen=True)
class TensorSpec:
    """A tensor's place.

    Attributes:
        dtype: name of its dtype.
        shape: its shape.
        begin, end: its byte range, relative to the end of the header or, in another file, to that file's start.
        file: the other file that its bytes are in; None for the header's own.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int
    file: Path | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Number of bytes."""
        return bytes_of(self.dtype, self.shape)


@dataclass(frozen=True)
class Header:
    """A parsed header.

    Attributes:
        metadata: the metadata without the digests and the tensors in other files.
        specs: tensors by name, in header order; those in other files come last.
        digests: tensor digests by name; None if the header has none, that is, ltpipe did not write the file.
        start: byte offset of the first tensor in the file.
        elsewhere: other files that tensors are in, each with its length.
    """

    metadata: dict[str, str]
    specs: dict[str, TensorSpec]
    digests: dict[str, str] | None
    start: int
    elsewhere: dict[Path, int] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors, wherever they are."""
        return sum(spec.nbytes for spec in self.specs.values())


def bytes_of(dtype: str, shape: tuple[int, ...]) -> int:
    """Return the number of bytes of a tensor."""
    if dtype in STORAGE:
        return prod(shape) * np.dtype(STORAGE[dtype]).itemsize
    bits = int(dtype[1:].partition("_")[0])  # F8_E4M3 has 8
    return prod(shape) * bits // 8


def widest_first(name: str, dtype: str) -> tuple[int, bytes]:
    """Return the sort key of tensors in a file, so that every tensor starts at a multiple of its own element size."""
    return -np.dtype(STORAGE[dtype]).itemsize, name.encode()


def unsealed(layout: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str]) -> tuple[bytes, Header]:
    """Return the header of a file to be written, with zeros as digests, padded so that the tensors start aligned.

    Args:
        layout: name to dtype name and shape of each tensor, in file order.
        metadata: the file's metadata.
    """
    specs: dict[str, TensorSpec] = {}
    position = 0
    for name, (dtype, shape) in layout.items():
        specs[name] = TensorSpec(dtype, shape, position, position + bytes_of(dtype, shape))
        position = specs[name].end
    said = {DIGESTS: _NONE * (1 + len(specs)), **metadata}
    entries = {
        name: {"dtype": spec.dtype, "shape": spec.shape, "data_offsets": [spec.begin, spec.end]}
        for name, spec in specs.items()
    }
    text = json.dumps({"__metadata__": said, **entries}, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % _ALIGNMENT)
    return text, Header(dict(metadata), specs, dict.fromkeys(specs, _NONE), 8 + len(text))


def seal(text: bytes, digests: Iterable[str]) -> bytes:
    """Return an `unsealed` header with its tensors' digests, in order, and its own digest filled in."""
    text = _with_digests(text, "".join([_NONE, *digests]))
    return _with_digests(text, _of_header(text))


def hexadecimal(digest: int) -> str:
    """Return a digest as written in a header."""
    return f"{digest:0{WIDTH}x}"


def _with_digests(text: bytes, digests: str) -> bytes:
    """Return a header with these digests in place of the first ones."""
    start = len(BEFORE_DIGESTS)
    return text[:start] + digests.encode() + text[start + len(digests) :]


def _of_header(text: bytes) -> str:
    """Return the digest of a header with zeros in the digest's own place."""
    return hashlib.blake2b(_with_digests(text, _NONE), digest_size=WIDTH // 2).hexdigest()


def read_header(path: Path) -> Header:
    """Read a header and check it against the file's length and, if it has one, its digest.

    Raises:
        UserError: the file does not exist.
        DamagedFileError: it is truncated, its header is invalid, or a dtype is in neither `STORAGE` nor `FOREIGN`.
    """
    check_file(path)
    length = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        if len(prefix) < 8:
            raise DamagedFileError(f"{path}: {length} bytes, too short for a safetensors file; {MEND_ANY}")
        size = struct.unpack("<Q", prefix)[0]
        if size > min(_HEADER_LIMIT, length - 8):
            raise DamagedFileError(f"{path}: not a safetensors file, or its header is truncated; {MEND_ANY}")
        text = file.read(size)
    # A tool that copies the metadata to its own file puts it elsewhere; those digests mean nothing.
    sealed = text.startswith(BEFORE_DIGESTS)
    if sealed and not text.startswith(_of_header(text).encode(), len(BEFORE_DIGESTS)):
        raise DamagedFileError(f"{path}: damaged: its header does not match its checksum; {MEND}")
    try:
        header = read_object(text.decode())
        metadata = header.pop("__metadata__", {})
        if not all(isinstance(text, str) for text in [*metadata, *metadata.values()]):
            raise ValueError("metadata is not text")
        specs = {name: _spec(path, name, entry) for name, entry in header.items()}
        digests = _split(metadata.pop(DIGESTS), specs) if sealed else None
        end = _check_contiguous(specs.values())
        elsewhere: dict[Path, int] = {}
        if digests is not None:
            for name, other in read_object(metadata.pop(ELSEWHERE, "{}")).items():
                place = path.parent / name
                elsewhere[place] = other["bytes"]
                for tensor, entry in other["tensors"].items():
                    specs[tensor] = replace(_spec(path, tensor, entry), file=place)
                    digests[tensor] = entry["digest"]
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise DamagedFileError(f"{path}: invalid safetensors header ({error}); {MEND_ANY}") from None
    if 8 + size + end != length:
        raise DamagedFileError(
            f"{path}: {length} bytes, but its header implies {8 + size + end}; "
            f"the file is truncated or damaged; {MEND_ANY}"
        )
    return Header(metadata, specs, digests, 8 + size, elsewhere)


def _split(digests: str, names: Iterable[str]) -> dict[str, str]:
    """Return the tensors' digests, which follow the header's."""
    parts = [digests[start : start + WIDTH] for start in range(WIDTH, len(digests), WIDTH)]
    return dict(zip(names, parts, strict=True))


def _check_contiguous(specs: Iterable[TensorSpec]) -> int:
    """Return where the last tensor ends; raise ValueError if tensors leave gaps or overlap, as the format forbids."""
    position = 0
    for spec in sorted(specs, key=lambda spec: (spec.begin, spec.end)):
        if spec.begin != position:
            raise ValueError(f"tensor bytes begin at {spec.begin} where {position} was expected")
        position = spec.end
    return position


def _spec(path: Path, name: str, entry: dict) -> TensorSpec:
    if entry["dtype"] not in STORAGE and entry["dtype"] not in FOREIGN:
        raise DamagedFileError(
            f"{path}: tensor '{name}' has dtype {entry['dtype']}, which cannot be read; use {', '.join(STORAGE)}"
        )
    shape, (begin, end) = tuple(entry["shape"]), entry["data_offsets"]
    if not all(type(number) is int for number in (*shape, begin, end)):
        raise ValueError(f"tensor {name!r} has a shape or offsets that are not integers")
    spec = TensorSpec(entry["dtype"], shape, begin, end)
    if end - begin != spec.nbytes or min(0, begin, *shape) < 0:
        raise ValueError(f"tensor {name!r} of shape {shape} does not fit bytes {begin} to {end}")
    return spec
