"""Safetensors files as memory-mapped NumPy arrays, without torch.

NumPy has no bfloat16, and stages that only look at bit patterns need neither torch nor a copy, so arrays are handed
out in the dtypes of `STORAGE`: BF16 as uint16 bit patterns, everything else as itself.

What has digests is checked when it is read: the header on opening, a tensor when it is first asked for.
"""

import json
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ltpipe.checkpoints.header import STORAGE, TensorSpec, hexadecimal, read_header
from ltpipe.runtime.digest import digest
from ltpipe.runtime.errors import MEND, MEND_ANY, DamagedFileError, OtherSettingsError, UserError
from ltpipe.runtime.made_with import ENTRY, check_made_with


class TensorFile:
    """A memory-mapped safetensors file.

    Opening checks the whole header against the file's length, and against its digest if it has one.

    Attributes:
        has_digests: whether damage to a tensor would be seen.

    Raises:
        UserError: the file does not exist.
        DamagedFileError: it is truncated, its header is not valid, or a dtype is unknown. A tensor that is no array of
            ours, int16 for example, is refused when it is asked for.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        header = read_header(path)
        self.metadata, self.specs, self._start = header.metadata, header.specs, header.start
        self.has_digests = header.sealed
        self._unchecked = dict(header.digests)
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
            raise DamagedFileError(f"{self.path}: has no tensor '{name}'; {MEND_ANY}")
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
        if self._unchecked.pop(name, hexadecimal(found)) != hexadecimal(found):
            raise DamagedFileError(f"{self.path}: damaged: '{name}' does not match its checksum; {MEND}")

    def unchecked(self, name: str) -> np.ndarray:
        """As `array`, for a reader that computes the digest on its way and says it to `check`."""
        spec = self.spec(name)
        if spec.dtype not in STORAGE:
            raise DamagedFileError(
                f"{self.path}: tensor '{name}' has dtype {spec.dtype}, which cannot be read; use {', '.join(STORAGE)}"
            )
        flat = np.frombuffer(self._map, STORAGE[spec.dtype], spec.size, self._start + spec.begin)
        return flat.reshape(spec.shape)


@contextmanager
def artefact(path: Path, kind: str, version: str, *, however_made: bool = False) -> Iterator[TensorFile]:
    """Open one of ltpipe's own files; whatever goes wrong while it is read is damage, and said in one line.

    Args:
        path: of the file.
        kind: what it has to be.
        version: of that kind's format.
        however_made: accept it whatever settings it was made with.

    Raises:
        UserError: there is no such file.
        OtherSettingsError: it was made with other settings than the configuration asks for.
        DamagedFileError: it is not a `kind` of format `version`, or its metadata or tensors do not fit together.
    """
    file = TensorFile(path)
    found, made = file.metadata.get("kind"), file.metadata.get("format")
    if found is None:  # the user's own, then, and nothing to be deleted
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
