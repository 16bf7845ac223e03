"""The manifest of a canonical checkpoint: its contents and its identity."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import prod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ltpipe.checkpoints.filenames import MANIFEST
from ltpipe.checkpoints.header import STORAGE
from ltpipe.runtime.errors import MEND, DamagedFileError
from ltpipe.runtime.files import check_file
from ltpipe.runtime.jsonfiles import read_record, write_record
from ltpipe.runtime.records import STRICT, typed

FORMAT = 3


@dataclass(frozen=True)
class TensorEntry:
    """One stored tensor.

    Attributes:
        dtype: safetensors dtype name.
        shape: shape in the live model.
        sha256: SHA-256 of its bytes.
        module: class name of the module that owns it, for example `Linear`.
        buffer: whether it is a persistent buffer: not a parameter, and never prunable.
        matrices: the matrices of linear maps that it contains, as stored: number, rows, columns. None if it is not
            multiplied with activations: an embedding, a convolution, a vector.
        inputs_first: whether the rows of these matrices are inputs, not outputs as in `nn.Linear`.
        left_out: what the tensor is instead, if it lies in a block and has several dimensions but no such matrices.
    """

    dtype: str
    shape: tuple[int, ...]
    sha256: str
    module: str
    buffer: bool = False
    matrices: tuple[int, int, int] | None = None
    inputs_first: bool = False
    left_out: str = ""

    def __post_init__(self) -> None:
        """Raise ValueError if the dtype is unknown or the matrices do not fit the shape."""
        if self.dtype not in STORAGE:
            raise ValueError(f"unknown dtype {self.dtype}")
        if self.matrices is not None and prod(self.matrices) != self.size:
            raise ValueError(f"matrices {list(self.matrices)} do not fit a tensor of shape {list(self.shape)}")

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Number of bytes."""
        return self.size * np.dtype(STORAGE[self.dtype]).itemsize


@dataclass(frozen=True)
class Walks:
    """How a model may be walked, as the load stage found on a small copy (`ltpipe.streaming.guard`).

    Attributes:
        forward: why its blocks do not run one at a time; empty if such a walk equals the model's own forward pass.
        backward: the same for its gradients.
        gradients: why it has no gradients at all; empty if it has.
        head: why its logits cannot be computed separately from its hidden states; empty if they can.
        rewrites: whether its forward pass writes to its own weights.
    """

    forward: str = ""
    backward: str = ""
    gradients: str = ""
    head: str = ""
    rewrites: bool = False


@dataclass(frozen=True)
class Manifest:
    """The contents of a canonical checkpoint folder.

    Attributes:
        architecture: class name of the model.
        source: where it came from, resolved (path, package version or Hub commit).
        blocks: name of the module list with the model's blocks, for example `model.layers`.
        further: names of other lists of blocks that the model runs; walks go through `blocks`.
        tensors: tensors by the live model's own names, tied parameters once.
        tied: further names of tied tensors, alias to stored name.
        files: SHA-256 by name of the files beside the weights that other tools read too.
        walks: how the model may be walked.
    """

    __pydantic_config__: ClassVar[Mapping[str, Any]] = STRICT

    architecture: str
    source: str
    blocks: str
    tensors: Mapping[str, TensorEntry]
    tied: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    further: tuple[str, ...] = ()
    walks: Walks = Walks()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of names, dtypes, shapes, contents and ties; independent of the source's shard layout."""
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
        """Return whether a tensor belongs to one of the blocks that walks go through."""
        return name.startswith(self.blocks + ".")

    def walked_block(self, name: str) -> str:
        """Return the full name of a tensor's block among those that walks go through; empty outside of them."""
        return (self.block_of(name) or "") if self.in_blocks(name) else ""

    def block_of(self, name: str) -> str | None:
        """Return the full name of a tensor's block, in any list of blocks; None outside of them."""
        for stack in (self.blocks, *self.further):
            if name.startswith(stack + "."):
                return f"{stack}.{name.removeprefix(stack + '.').partition('.')[0]}"
        return None

    def left_out(self) -> dict[str, str]:
        """Return the multi-dimensional tensors in blocks that are not prunable, and the reasons.

        Names have `*` for every number, so that one entry covers all blocks.
        """
        reasons: dict[str, str] = {}
        for name, entry in self.tensors.items():
            if entry.left_out:
                pattern = ".".join("*" if part.isdigit() else part for part in name.split("."))
                reasons.setdefault(pattern, entry.left_out)
        return reasons

    def verified(self, path: Path) -> bytes:
        """Return the content of a file beside the weights.

        Raises:
            UserError: there is no such file.
            DamagedFileError: its content does not match the manifest.
        """
        check_file(path)
        content = path.read_bytes()
        if self.files.get(path.name) != hashlib.sha256(content).hexdigest():
            raise DamagedFileError(f"{path}: damaged: does not match its checksum in {MANIFEST}; {MEND}")
        return content

    def write(self, path: Path) -> None:
        """Write the manifest as JSON."""
        write_record(path, {"format": FORMAT, "fingerprint": self.fingerprint, **asdict(self)})

    @classmethod
    def read(cls, path: Path) -> "Manifest":
        """Read a manifest and check it against its own fingerprint.

        Raises:
            DamagedFileError: it has another format, or does not match its fingerprint.
        """
        content: dict[str, Any] = read_record(path)
        version, fingerprint = content.pop("format", None), content.pop("fingerprint", None)
        if version != FORMAT:
            raise DamagedFileError(
                f"{path}: manifest format {version}, but this version of ltpipe reads format {FORMAT}; {MEND}"
            )
        manifest = typed(cls, content, path, "checkpoint manifest")
        if manifest.fingerprint != fingerprint:
            raise DamagedFileError(f"{path}: damaged: its contents do not match the fingerprint; {MEND}")
        return manifest
