"""Safetensors files as memory-mapped NumPy arrays, without torch.

NumPy has no bfloat16, and stages that only need bit patterns need neither torch nor a copy. So arrays have the dtypes
of `STORAGE`: BF16 as uint16 bit patterns, everything else as itself.

Files with digests are checked as they are read: the header on opening, a tensor on first use. The bytes of some tensors
may be in other files (`ltpipe.checkpoints.originals`); they are checked alike.
"""

import json
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ltpipe.checkpoints.header import STORAGE, TensorSpec, hexadecimal, read_header
from ltpipe.runtime.digest import Digest, digest
from ltpipe.runtime.errors import MEND, MEND_ANY, DamagedFileError, OtherSettingsError, UserError
from ltpipe.runtime.made_with import ENTRY, check_made_with


class TensorFile:
    """A memory-mapped safetensors file.

    Opening checks the whole header against the file's length and, if it has one, its digest.

    Attributes:
        path: the file.
        metadata: its metadata.
        specs: its tensors by name.
        start: byte offset of the first tensor in the file.
        has_digests: whether damage to a tensor would be detected.
        elsewhere: other files that tensors are in.

    Raises:
        UserError: the file does not exist.
        DamagedFileError: it is truncated, its header is invalid, or a dtype is unknown. A tensor with a foreign dtype,
            for example int16, is rejected only when it is read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        header = read_header(path)
        self.metadata, self.specs, self.start = header.metadata, header.specs, header.start
        self.has_digests = header.digests is not None
        self.elsewhere = header.elsewhere
        self._unchecked = dict(header.digests or {})
        self._maps: dict[Path | None, mmap.mmap] = {None: _mapped(path)}

    def __contains__(self, name: str) -> bool:
        return name in self.specs

    def spec(self, name: str) -> TensorSpec:
        """Return the file's entry for the tensor `name`.

        Raises:
            DamagedFileError: the file has no such tensor.
        """
        if name not in self.specs:
            raise DamagedFileError(f"{self.path}: has no tensor '{name}'; {MEND_ANY}")
        return self.specs[name]

    def array(self, name: str) -> np.ndarray:
        """Return the tensor `name`: a read-only view of the mapped file, not a copy; read once to check it.

        Raises:
            DamagedFileError: the file has no such tensor, or its bytes are not those that were written.
        """
        view = self._view(name)
        if name in self._unchecked:
            self._check(name, digest(view))
        return view

    def chunks(self, name: str, size: int) -> Iterator[np.ndarray]:
        """Yield the elements of the tensor `name`, flat, `size` at a time, and check them on the way.

        So every byte is read once, from disk at least. Raises as `array`, but damage only after the last chunk.
        """
        seen, checked = Digest(), name not in self._unchecked
        for chunk in in_chunks(self._view(name).reshape(-1), size):
            if not checked:
                seen.update(chunk)
            yield chunk
        if not checked:
            self._check(name, seen.value)

    def check_all(self) -> None:
        """Read and check every tensor that has a digest; raises as `array`."""
        for name in list(self._unchecked):
            self.array(name)

    def _check(self, name: str, found: int) -> None:
        if self._unchecked.pop(name, hexadecimal(found)) != hexadecimal(found):
            place = self.specs[name].file
            if place:
                raise self._changed(place, f"its tensor '{name}' does not match its checksum")
            raise DamagedFileError(f"{self.path}: damaged: '{name}' does not match its checksum; {MEND}")

    def _view(self, name: str) -> np.ndarray:
        spec = self.spec(name)
        if spec.dtype not in STORAGE:
            raise DamagedFileError(
                f"{self.path}: tensor '{name}' has dtype {spec.dtype}, which cannot be read; use {', '.join(STORAGE)}"
            )
        start = 0 if spec.file else self.start
        flat = np.frombuffer(self._bytes_in(spec.file), STORAGE[spec.dtype], spec.size, start + spec.begin)
        return flat.reshape(spec.shape)

    def _bytes_in(self, place: Path | None) -> mmap.mmap:
        """Return the bytes of another file, mapped on first use."""
        if place not in self._maps:
            assert place is not None
            if not place.is_file():
                raise self._changed(place, "it is gone")
            if (found := place.stat().st_size) != self.elsewhere[place]:
                raise self._changed(place, f"it had {self.elsewhere[place]} bytes and has {found}")
            self._maps[place] = _mapped(place)
        return self._maps[place]

    def _changed(self, place: Path, what: str) -> DamagedFileError:
        return DamagedFileError(
            f"{place}: has changed since {self.path} was made, which uses it in place ({what}); restore it, or delete "
            f"{self.path} and run again"
        )


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def in_chunks(flat: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Yield the parts of a flat array, `size` elements each; the last may be smaller."""
    for start in range(0, flat.size, size):
        yield flat[start : start + size]


@contextmanager
def artefact(path: Path, kind: str, version: str, *, however_made: bool = False) -> Iterator[TensorFile]:
    """Open one of ltpipe's own files; report any error while it is read as damage, in one line.

    Args:
        path: the file.
        kind: the required kind of artefact.
        version: the required format of that kind.
        however_made: accept it whatever settings it was made with.

    Raises:
        UserError: there is no such file.
        OtherSettingsError: it was made with settings other than those in the configuration.
        DamagedFileError: it is not a `kind` in format `version`, or its metadata and tensors are inconsistent.
    """
    file = TensorFile(path)
    found, made = file.metadata.get("kind"), file.metadata.get("format")
    if found is None:  # then it is the user's own, and must not be deleted
        raise DamagedFileError(
            f"{path}: not a {kind} but another safetensors file, with {len(file.specs)} tensors; give the {kind} that "
            "a stage wrote"
        )
    if found != kind:
        raise DamagedFileError(f"{path}: not a {kind} but a {found}; give the {kind}")
    if made != version:
        raise DamagedFileError(f"{path}: a {kind} in format {made}, but this version of ltpipe reads {version}; {MEND}")
    if not file.has_digests:
        raise DamagedFileError(f"{path}: a {kind} with no checksums, so not written by ltpipe; {MEND}")
    try:
        if not however_made:
            check_made_with(path, json.loads(file.metadata.get(ENTRY, "null")))
        yield file
    except (DamagedFileError, OtherSettingsError):
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
