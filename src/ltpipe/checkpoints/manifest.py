"""The manifest of a canonical checkpoint: what is in it, and which checkpoint it is."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ltpipe.checkpoints.header import STORAGE
from ltpipe.checkpoints.layout import MANIFEST
from ltpipe.runtime.errors import MEND, DamagedFileError
from ltpipe.runtime.files import check_file, sha256_of
from ltpipe.runtime.jsonfiles import read_record, write_record

FORMAT = 2


@dataclass(frozen=True)
class TensorEntry:
    """One stored tensor.

    Attributes:
        dtype: safetensors dtype name.
        shape: as in the live model.
        sha256: of its bytes.
        module: class name of the module that owns it, `Linear` for example.
        buffer: a persistent buffer, which is no parameter and never prunable.
    """

    dtype: str
    shape: tuple[int, ...]
    sha256: str
    module: str
    buffer: bool = False

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Number of bytes."""
        return self.size * np.dtype(STORAGE[self.dtype]).itemsize


@dataclass(frozen=True)
class Manifest:
    """What a canonical checkpoint folder holds.

    Attributes:
        architecture: class name of the model.
        source: where it came from, resolved (path, package version or Hub commit).
        blocks: name of the module list that holds the model's blocks, `model.layers` for example.
        tensors: by the live model's own names, tied parameters once.
        tied: further names of a tensor, alias to stored name.
        files: SHA-256 of the files beside the weights that other tools read too, by name.
    """

    architecture: str
    source: str
    blocks: str
    tensors: Mapping[str, TensorEntry]
    tied: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over names, dtypes, shapes, contents and ties; independent of the source's shard layout."""
        content = [
            [[name, entry.dtype, list(entry.shape), entry.sha256] for name, entry in sorted(self.tensors.items())],
            sorted(self.tied.items()),
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    @property
    def parameters(self) -> int:
        """Number of parameters, tied ones counted once."""
        return sum(entry.size for entry in self.tensors.values() if not entry.buffer)

    @property
    def nbytes(self) -> int:
        """Bytes of all stored tensors."""
        return sum(entry.nbytes for entry in self.tensors.values())

    def in_blocks(self, name: str) -> bool:
        """Whether a tensor belongs to one of the model's blocks."""
        return name.startswith(self.blocks + ".")

    def checked(self, path: Path) -> Path:
        """The path of a file beside the weights, after a look at its content.

        Raises:
            UserError: there is no such file.
            DamagedFileError: its content is another than the manifest says.
        """
        check_file(path)
        if self.files.get(path.name) != sha256_of(path):
            raise DamagedFileError(f"{path}: damaged, does not match its checksum in {MANIFEST}; {MEND}")
        return path

    def write(self, path: Path) -> None:
        """Write the manifest as JSON."""
        write_record(path, {"format": FORMAT, "fingerprint": self.fingerprint, **_plain(self)})

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """Read a manifest and check it against its own fingerprint.

        Raises:
            DamagedFileError: it is of another format, or does not match its fingerprint.
        """
        content: dict[str, Any] = read_record(path)
        version, fingerprint = content.pop("format", None), content.pop("fingerprint", None)
        if version != FORMAT:
            raise DamagedFileError(
                f"{path}: manifest format {version}, this version of ltpipe reads format {FORMAT}; {MEND}"
            )
        try:
            tensors = {
                name: TensorEntry(**{**entry, "shape": tuple(entry["shape"])})
                for name, entry in content.pop("tensors").items()
            }
            manifest = cls(tensors=tensors, **content)
            words = (manifest.architecture, manifest.source, manifest.blocks)
            if not all(isinstance(word, str) for word in (*words, *manifest.tied.values(), *manifest.files.values())):
                raise TypeError("a value that is not text")
            found = manifest.fingerprint
        except (TypeError, KeyError, AttributeError) as error:
            raise DamagedFileError(f"{path}: not a checkpoint manifest ({error}); {MEND}") from None
        if found != fingerprint:
            raise DamagedFileError(f"{path}: contents do not match the fingerprint; {MEND}")
        return manifest


def _plain(manifest: Manifest) -> dict[str, Any]:
    return {
        "architecture": manifest.architecture,
        "source": manifest.source,
        "blocks": manifest.blocks,
        "tied": dict(manifest.tied),
        "files": dict(manifest.files),
        "tensors": {name: asdict(entry) for name, entry in manifest.tensors.items()},
    }
