"""Safetensors files as memory-mapped NumPy arrays, without torch.

The format (https://github.com/huggingface/safetensors) is an 8-byte little-endian header length, a JSON header and
the tensors' bytes. NumPy has no bfloat16, and stages that only look at bit patterns need neither torch nor a copy, so
arrays are handed out in the dtypes of `STORAGE`: BF16 as uint16 bit patterns, everything else as itself.

What is written here carries digests of its header and of every tensor, as the first entry of its metadata, and is
checked when it is read: the header on opening, a tensor when it is first asked for. Files of other tools have none.
"""

import hashlib
import json
import mmap
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from ltpipe.runtime.digest import Digest, digest
from ltpipe.runtime.errors import MEND, MEND_ANY, DamagedFileError, UserError
from ltpipe.runtime.files import atomic_write, check_file, read_object
from ltpipe.runtime.progress import track

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
"""What torch calls the dtypes that a canonical checkpoint may hold."""

_HEADER_LIMIT = 100 * 2**20
_ALIGNMENT = 64
_DIGESTS = "ltpipe_digests"
_BEFORE_DIGESTS = f'{{"__metadata__":{{"{_DIGESTS}":"'.encode()
_WIDTH = 16  # hexadecimal digits of a digest


@dataclass(frozen=True)
class TensorSpec:
    """Where a tensor lies in the file: dtype name, shape, byte range relative to the end of the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)


@dataclass(frozen=True)
class TensorData:
    """One tensor to write. `chunks` yields its contents in row-major order, in pieces of any size."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    chunks: Iterable[np.ndarray]

    @classmethod
    def of(cls, name: str, array: np.ndarray) -> "TensorData":
        """Wrap an array whose NumPy dtype says what it is (not bfloat16)."""
        dtypes = {np.dtype(storage): dtype for dtype, storage in STORAGE.items() if dtype != "BF16"}
        return cls(name, dtypes[array.dtype], array.shape, [array])

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return prod(self.shape) * np.dtype(STORAGE[self.dtype]).itemsize


class TensorFile:
    """A memory-mapped safetensors file.

    Opening checks the whole header against the file's length, and against its digest if it has one.

    Attributes:
        has_digests: whether damage to a tensor would be seen.

    Raises:
        UserError: the file does not exist.
        DamagedFileError: it is truncated, its header is not valid, or a dtype is not in `STORAGE`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metadata, self.specs, digests, self._start = _read_header(path)
        self.has_digests = bool(digests)
        self._unchecked = dict(zip(self.specs, digests[1:], strict=bool(digests)))
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __contains__(self, name: str) -> bool:
        return name in self.specs

    def spec(self, name: str) -> TensorSpec:
        """What the file says about the tensor `name`.

        Raises:
            DamagedFileError: the file holds no such tensor.
        """
        if name not in self.specs:
            raise DamagedFileError(f"{self.path}: holds no tensor '{name}'; {MEND_ANY}")
        return self.specs[name]

    def array(self, name: str) -> np.ndarray:
        """The tensor `name`: a read-only view of the mapped file, no bytes copied; read once to check it.

        Raises:
            DamagedFileError: the file holds no such tensor, or its bytes are not those that were written.
        """
        view = self.unchecked(name)
        if name in self._unchecked:
            self.check(name, digest(view))
        return view

    def check_all(self) -> None:
        """Read every tensor that has a digest, to check it; raises as `array`."""
        for name in list(self._unchecked):
            self.array(name)

    def check(self, name: str, found: int) -> None:
        """Say what the digest of the tensor `name` is, as whoever has read it found.

        Raises:
            DamagedFileError: it is not that of the bytes that were written.
        """
        if self._unchecked.pop(name, _hex(found)) != _hex(found):
            raise DamagedFileError(f"{self.path}: damaged, '{name}' does not match its checksum; {MEND}")

    def unchecked(self, name: str) -> np.ndarray:
        """As `array`, for a reader that computes the digest on its way and says it to `check`."""
        spec = self.spec(name)
        flat = np.frombuffer(self._map, STORAGE[spec.dtype], spec.size, self._start + spec.begin)
        return flat.reshape(spec.shape)


@contextmanager
def artefact(path: Path, kind: str, version: str) -> Iterator[TensorFile]:
    """Open one of ltpipe's own files; whatever goes wrong while it is read is damage, and said in one line.

    Raises:
        UserError: there is no such file.
        DamagedFileError: it is not a `kind` of format `version`, or its metadata or tensors do not fit together.
    """
    file = TensorFile(path)
    if (file.metadata.get("kind"), file.metadata.get("format")) != (kind, version):
        raise DamagedFileError(f"{path}: not a {kind} of format {version}; {MEND}")
    if not file.has_digests:
        raise DamagedFileError(f"{path}: a {kind} without checksums, which ltpipe has not written; {MEND}")
    try:
        yield file
    except DamagedFileError:
        raise
    except (
        UserError,
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise DamagedFileError(f"{path}: damaged {kind} ({type(error).__name__}: {error}); {MEND}") from None


def write_tensors(path: Path, tensors: Iterable[TensorData], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file atomically, tensor by tensor, in the order given.

    Only one chunk need be in memory at a time.

    Raises:
        ValueError: a tensor's chunks hold more or fewer bytes than its shape says.
    """
    tensors = list(tensors)
    with tensor_writer(path, {tensor.name: (tensor.dtype, tensor.shape) for tensor in tensors}, metadata) as write:
        for tensor in track(tensors, f"writing {path.name}"):
            write(tensor.name, tensor.chunks)


@contextmanager
def tensor_writer(
    path: Path, layout: Mapping[str, tuple[str, tuple[int, ...]]], metadata: dict[str, str] | None = None
) -> Iterator[Callable[[str, Iterable[np.ndarray]], None]]:
    """Write a safetensors file atomically, as its tensors become known.

    Args:
        path: of the file; it is there when all is written.
        layout: name to dtype name and shape of each tensor, in the order in which they are to lie in the file.
        metadata: of the file.

    Yields:
        Function of a tensor's name and its contents in row-major order, in pieces of any size. Tensors may be written
        in any order, each once.

    Raises:
        ValueError: a tensor's chunks hold more or fewer bytes than its shape says, or a tensor was not written.
    """
    missing: dict[str, TensorData] = {}
    digests = dict.fromkeys(("", *layout), "0" * _WIDTH)  # the first is the header's
    header: dict[str, object] = {"__metadata__": {_DIGESTS: "".join(digests.values()), **(metadata or {})}}
    starts: dict[str, int] = {}
    position = 0
    for name, (dtype, shape) in layout.items():
        missing[name] = TensorData(name, dtype, shape, [])
        starts[name], position = position, position + missing[name].nbytes
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [starts[name], position]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % _ALIGNMENT)
    with atomic_write(path) as file:
        file.write(struct.pack("<Q", len(text)) + text)

        def write(name: str, chunks: Iterable[np.ndarray]) -> None:
            promised = missing.pop(name).nbytes
            file.seek(8 + len(text) + starts[name])
            written, found = 0, Digest()
            for chunk in _bytes(chunks):
                written += file.write(memoryview(chunk))
                found.update(chunk)
            if written != promised:
                raise ValueError(f"{name}: {written} bytes given, its shape takes {promised}")
            digests[name] = _hex(found.value)

        yield write
        if missing:
            raise ValueError(f"{path}: {', '.join(missing)} not written")
        digests[""] = _of_header(_with_digests(text, "".join(digests.values())))
        file.seek(8)
        file.write(_with_digests(text, "".join(digests.values())))


def _with_digests(text: bytes, digests: str) -> bytes:
    """A header with other digests of the same number."""
    start = len(_BEFORE_DIGESTS)
    return text[:start] + digests.encode() + text[start + len(digests) :]


def _of_header(text: bytes) -> str:
    """The digest of a header, its own place in it filled with zeros."""
    return hashlib.blake2b(_with_digests(text, "0" * _WIDTH), digest_size=_WIDTH // 2).hexdigest()


def _split(digests: str) -> list[str]:
    return [digests[start : start + _WIDTH] for start in range(0, len(digests), _WIDTH)]


def _hex(found: int) -> str:
    return f"{found:0{_WIDTH}x}"


def _bytes(chunks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    for chunk in chunks:
        if chunk.size:
            yield np.ascontiguousarray(chunk).reshape(-1).view(np.uint8)


def _read_header(path: Path) -> tuple[dict[str, str], dict[str, TensorSpec], list[str], int]:
    """Metadata, tensors, the digests of header and tensors if there are any, and where the tensors begin."""
    check_file(path)
    length = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        if len(prefix) < 8:
            raise DamagedFileError(f"{path}: {length} bytes, too short for a safetensors file; {MEND_ANY}")
        size = struct.unpack("<Q", prefix)[0]
        if size > min(_HEADER_LIMIT, length - 8):
            raise DamagedFileError(f"{path}: not a safetensors file, or truncated in its header; {MEND_ANY}")
        text = file.read(size)
    # A tool that copies metadata to a file of its own puts it elsewhere, and its digests mean nothing.
    sealed = text.startswith(_BEFORE_DIGESTS)
    if sealed and not text.startswith(_of_header(text).encode(), len(_BEFORE_DIGESTS)):
        raise DamagedFileError(f"{path}: damaged, its header does not match its checksum; {MEND}")
    try:
        header = read_object(text.decode())
        metadata = header.pop("__metadata__", {})
        if not all(isinstance(text, str) for text in [*metadata, *metadata.values()]):
            raise ValueError("metadata that is not text")
        specs = {name: _spec(path, name, entry) for name, entry in header.items()}
        digests = _split(metadata.pop(_DIGESTS, "") if sealed else "")
        end = _check_contiguous(specs.values())
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise DamagedFileError(f"{path}: safetensors header is not valid ({error}); {MEND_ANY}") from None
    if 8 + size + end != length:
        raise DamagedFileError(
            f"{path}: {length} bytes, but its header promises {8 + size + end}; "
            f"the file is truncated or damaged; {MEND_ANY}"
        )
    return metadata, specs, digests, 8 + size


def _check_contiguous(specs: Iterable[TensorSpec]) -> int:
    """Where the last tensor ends, if the tensors fill the file without gap or overlap, as the format demands."""
    position = 0
    for spec in sorted(specs, key=lambda spec: (spec.begin, spec.end)):
        if spec.begin != position:
            raise ValueError(f"tensor bytes begin at {spec.begin} where {position} was expected")
        position = spec.end
    return position


def _spec(path: Path, name: str, entry: dict) -> TensorSpec:
    if entry["dtype"] not in STORAGE:
        raise DamagedFileError(f"{path}: tensor '{name}' has dtype {entry['dtype']}; readable are {', '.join(STORAGE)}")
    shape, (begin, end) = tuple(entry["shape"]), entry["data_offsets"]
    if not all(type(number) is int for number in (*shape, begin, end)):
        raise ValueError(f"tensor {name!r} has a shape or offsets that are not whole numbers")
    spec = TensorSpec(entry["dtype"], shape, begin, end)
    if end - begin != spec.size * np.dtype(STORAGE[spec.dtype]).itemsize or min(0, begin, *shape) < 0:
        raise ValueError(f"tensor {name!r} of shape {shape} cannot fill bytes {begin} to {end}")
    return spec
