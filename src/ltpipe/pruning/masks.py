"""Masks: packed with one bit per weight, written and read with integrity checks.

File format: docs/mask-format.md.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ltpipe.checkpoints.manifest import Manifest
from ltpipe.checkpoints.tensorfile import artefact
from ltpipe.checkpoints.tensorwriter import TensorData, write_tensors
from ltpipe.pruning.sparsity import Sparsity
from ltpipe.runtime.errors import DamagedFileError, UserError

if TYPE_CHECKING:
    import torch

FORMAT = "2"
_UNPACKED = 1 << 22  # weights whose bits are expanded at a time; a multiple of 8, so that chunks begin at whole bytes


@dataclass(frozen=True)
class Mask:
    """A packed mask, usually a view of its mapped file.

    Attributes:
        bits: canonical-order tensor names to uint8 arrays of shape [ceil(size / 8)]; bit i % 8 of byte i // 8
            (little-endian) is 1 where weight i, in row-major order, is kept.
        shapes: shapes of the tensors.
        kept: number of weights kept in each tensor.
        criterion, scope, sparsity, seed: how the mask was made; `sparsity` as requested.
        checkpoint: fingerprint of the checkpoint it was made from.
        options: options under the keys `criterion` and `scope`, under `level` how a level of a training pruned, and
            under `solution` that a solver gave the kept weights new values; keys without options are left out.
    """

    bits: Mapping[str, np.ndarray]
    shapes: Mapping[str, tuple[int, ...]]
    kept: Mapping[str, int]
    criterion: str
    scope: str
    sparsity: Sparsity
    seed: int | None
    checkpoint: str
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Number of prunable weights."""
        return sum(prod(shape) for shape in self.shapes.values())

    @property
    def total_kept(self) -> int:
        """Number of weights kept."""
        return sum(self.kept.values())

    @property
    def changed(self) -> bool:
        """Whether a solver gave the kept weights new values, which are in its solution."""
        return "solution" in self.options

    def check_applied(self, path: Path, solution: object) -> None:
        """Raise UserError if a solver gave the kept weights new values, and the solution with them is None."""
        if self.changed and solution is None:
            raise UserError(
                f"{path}: {self.criterion} also changed the weights that its mask keeps; give --solution, the file "
                "that it wrote with the mask"
            )

    def check_made_for(self, checkpoint: str, path: Path) -> None:
        """Raise UserError unless the mask was made from the checkpoint with this fingerprint."""
        if self.checkpoint != checkpoint:
            raise UserError(
                f"{path}: mask of another model (made from checkpoint {self.checkpoint[:12]}, "
                f"used on {checkpoint[:12]}); make a mask from this checkpoint"
            )


def check_fits(mask: Mask, manifest: Manifest, path: Path) -> None:
    """Raise UserError unless the mask was made from the checkpoint and only masks its tensors."""
    mask.check_made_for(manifest.fingerprint, path)
    for name, shape in mask.shapes.items():
        entry = manifest.tensors.get(name)
        if entry is None or entry.shape != shape:
            raise DamagedFileError(f"{path}: masks '{name}' of shape {list(shape)}, which is not in its checkpoint")


def read_mask(path: Path) -> Mask:
    """Open a mask file and check it: format, lengths, and the number of kept weights of every tensor.

    Raises:
        UserError: there is no such file.
        DamagedFileError: it is not a mask of this format, or its bits are not those that were written.
    """
    with artefact(path, "mask", FORMAT) as file:
        mask = Mask(
            bits={name: file.array(name) for name in file.specs},
            shapes={name: tuple(shape) for name, shape in json.loads(file.metadata["shapes"]).items()},
            kept=json.loads(file.metadata["kept"]),
            criterion=file.metadata["criterion"],
            scope=file.metadata["scope"],
            sparsity=Sparsity.of(file.metadata["sparsity"]),
            seed=json.loads(file.metadata["seed"]),
            checkpoint=file.metadata["checkpoint"],
            options=json.loads(file.metadata.get("options", "{}")),  # masks of trainings have none
        )
        if not (mask.seed is None or type(mask.seed) is int):
            raise ValueError(f"seed {mask.seed!r}")
        if not mask.bits.keys() == mask.shapes.keys() == mask.kept.keys():
            raise ValueError("tensors and metadata name different weights")
        for name, bits in mask.bits.items():
            if bits.size != (prod(mask.shapes[name]) + 7) // 8 or count_kept(bits) != mask.kept[name]:
                raise ValueError(f"'{name}' does not keep the number of weights it promises")
    return mask


def write_whole_mask(path: Path, mask: Mask) -> None:
    """Write a mask from memory."""
    tensors = [TensorData.of(name, bits) for name, bits in mask.bits.items()]
    write_tensors(path, tensors, header(mask))


def header(mask: Mask) -> dict[str, str]:
    """Return the metadata of a mask file; the bits are not used."""
    return {
        "format": FORMAT,
        "kind": "mask",
        "criterion": mask.criterion,
        "scope": mask.scope,
        "sparsity": mask.sparsity.text,
        "seed": json.dumps(mask.seed),
        "checkpoint": mask.checkpoint,
        "total": str(mask.total),
        "kept": json.dumps(dict(mask.kept)),
        "shapes": json.dumps(dict(mask.shapes)),
        "options": json.dumps(dict(mask.options), sort_keys=True),
    }


def pack(kept: np.ndarray) -> np.ndarray:
    """Return one tensor's bool array, of any shape, as packed bits."""
    return np.packbits(kept.reshape(-1), bitorder="little")


def unpack(bits: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return one tensor's packed bits as a bool array of `shape`."""
    return np.unpackbits(bits, count=prod(shape), bitorder="little").view(np.bool_).reshape(shape)


def unpack_chunks(bits: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Yield a tensor's `size` packed bits as flat bool arrays, a chunk at a time."""
    for start in range(0, size, _UNPACKED):
        yield unpack(bits[start // 8 :], (min(size - start, _UNPACKED),))


def count_kept(bits: np.ndarray) -> int:
    """Return the number of ones in packed bits; eight bytes at a time is five times as fast as one."""
    whole = bits.size // 8 * 8
    words = np.bitwise_count(bits[:whole].view(np.uint64)).sum(dtype=np.int64)
    return int(words) + int(np.bitwise_count(bits[whole:]).sum(dtype=np.int64))


def load_mask(path: Path | str) -> dict[str, "torch.Tensor"]:
    """Read a mask file as bool tensors on the CPU, True where a weight is kept, by parameter name.

    Raises:
        UserError: there is no such file.
        DamagedFileError: it is not a mask of ltpipe, or it is damaged.
    """
    import torch

    mask = read_mask(Path(path))
    return {name: torch.from_numpy(unpack(bits, mask.shapes[name])) for name, bits in mask.bits.items()}
