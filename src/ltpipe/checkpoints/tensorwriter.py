"""Writes safetensors files tensor by tensor, with digests of every tensor and of the header."""

import json
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ltpipe.checkpoints.header import STORAGE, bytes_of, hexadecimal, seal, unsealed
from ltpipe.runtime.digest import Digest
from ltpipe.runtime.files import atomic_write
from ltpipe.runtime.made_with import ENTRY, asked
from ltpipe.runtime.progress import track


@dataclass(frozen=True)
class TensorData:
    """One tensor to write. `chunks` yields its contents in row-major order, in pieces of any size."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    chunks: Iterable[np.ndarray]

    @classmethod
    def of(cls, name: str, array: np.ndarray) -> "TensorData":
        """Wrap an array of any stored dtype but bfloat16."""
        dtypes = {np.dtype(storage): dtype for dtype, storage in STORAGE.items() if dtype != "BF16"}
        return cls(name, dtypes[array.dtype], array.shape, [array])

    @property
    def nbytes(self) -> int:
        """Number of bytes in the file."""
        return bytes_of(self.dtype, self.shape)


def write_tensors(path: Path, tensors: Iterable[TensorData], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file atomically, tensor by tensor, in the order given.

    Only one chunk needs to be in memory at a time.

    Raises:
        ValueError: a tensor's chunks have more or fewer bytes than its shape implies.
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
        path: the file, which appears once everything is written.
        layout: name to dtype name and shape of each tensor, in file order.
        metadata: the file's metadata; for an artefact, which has a kind, the settings it was made with are added.

    Yields:
        A function of a tensor's name and its contents in row-major order, in pieces of any size. Call it once per
        tensor, in any order.

    Raises:
        ValueError: a tensor's chunks have more or fewer bytes than its shape implies, or a tensor was not written.
    """
    said = dict(metadata or {})
    if "kind" in said and (settings := asked()) is not None:
        said[ENTRY] = json.dumps(settings, ensure_ascii=False)
    text, header = unsealed(layout, said)
    missing, digests = dict(header.specs), dict.fromkeys(header.specs, "")
    with atomic_write(path) as file:
        file.write(struct.pack("<Q", len(text)) + text)

        def write(name: str, chunks: Iterable[np.ndarray]) -> None:
            spec = missing.pop(name)
            file.seek(header.start + spec.begin)
            written, found = 0, Digest()
            for chunk in _bytes(chunks):
                written += file.write(chunk.data)
                found.update(chunk)
            if written != spec.nbytes:
                raise ValueError(f"{name}: {written} bytes given, but its shape takes {spec.nbytes}")
            digests[name] = hexadecimal(found.value)

        yield write
        if missing:
            raise ValueError(f"{path}: {', '.join(missing)} not written")
        file.seek(8)
        file.write(seal(text, digests.values()))


def _bytes(chunks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    for chunk in chunks:
        if chunk.size:
            yield np.ascontiguousarray(chunk).reshape(-1).view(np.uint8)
