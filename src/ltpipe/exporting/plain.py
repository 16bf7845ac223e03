"""Masks as other tools have them: one bool tensor for each weight matrix, True where a weight is kept."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from math import prod
from pathlib import Path

import numpy as np

from ltpipe.checkpoints.layout import MANIFEST
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.checkpoints.prunable import Selection
from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.checkpoints.tensorwriter import TensorData, write_tensors
from ltpipe.exporting.folder import Exported, origin
from ltpipe.pruning.masks import Mask, count_kept, pack, read_mask, unpack, write_whole_mask
from ltpipe.runtime.errors import DamagedFileError, UserError
from ltpipe.runtime.progress import track

UNKNOWN = "unknown"
_BYTES = 1 << 20  # of packed bits that are expanded at a time


@dataclass(frozen=True)
class Imported:
    """An imported mask, and which weight matrices of the model's blocks have none and stay dense."""

    mask: Mask
    missing: tuple[str, ...]

    def __str__(self) -> str:
        """One line."""
        mask, few = self.mask, ", ".join(self.missing[:3]) + " …" * (len(self.missing) > 3)
        dense = f"; {len(self.missing)} weight matrices of the blocks have no mask and stay dense: {few}"
        kept = f"kept {mask.total_kept:,} of {mask.total:,} weights of {len(mask.bits)} tensors"
        return kept + (dense if self.missing else "")


def export_plain(mask_path: Path, output: Path) -> Exported:
    """Write a mask as a safetensors file of bool tensors, with its origin in the metadata."""
    mask = read_mask(mask_path)
    tensors = [
        TensorData(name, "BOOL", mask.shapes[name], _expanded(bits, prod(mask.shapes[name])))
        for name, bits in mask.bits.items()
    ]
    write_tensors(output, tensors, origin(mask))
    packed = sum(bits.size for bits in mask.bits.values())
    note = "a mask alone, True where a weight is kept: one byte a weight, where ours has one bit"
    return Exported(output, (mask.total, mask.total), (packed, mask.total), note)


def read_plain(path: Path) -> Mask:
    """Read a file of bool tensors as a mask; what its metadata do not say is `unknown`, the checkpoint ''.

    Memory holds one bit a weight.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    file = TensorFile(path)
    for name, spec in file.specs.items():
        if spec.dtype != "BOOL":
            raise UserError(
                f"{path}: no mask of ours, and '{name}' is {spec.dtype}; a plain mask holds bool tensors only, True "
                "where a weight is kept"
            )
    if not file.specs:
        raise UserError(f"{path}: holds no tensor; a plain mask has one for each weight matrix")
    names = sorted(file.specs, key=str.encode)
    bits = {name: pack(file.array(name)) for name in track(names, "packing")}
    kept = {name: count_kept(packed) for name, packed in bits.items()}
    shapes = {name: file.specs[name].shape for name in names}
    total = sum(prod(shape) for shape in shapes.values())
    share = repr(1 - sum(kept.values()) / total) if total else "0"
    said = file.metadata
    try:
        seed = json.loads(said.get("seed", "null"))
    except json.JSONDecodeError:
        raise DamagedFileError(f"{path}: seed {said['seed']!r} in its metadata is no number") from None
    return Mask(
        bits,
        shapes,
        kept,
        said.get("criterion", UNKNOWN),
        said.get("scope", UNKNOWN),
        said.get("sparsity", format(Decimal(share).normalize(), "f")),
        seed,
        said.get("checkpoint", ""),
    )


def import_plain(path: Path, folder: Path, output: Path, criterion: str | None = None) -> Imported:
    """Write a file of bool tensors as a mask of a checkpoint. What we exported comes back byte for byte.

    Args:
        path: of the file.
        folder: canonical checkpoint folder.
        output: mask to write.
        criterion: what the mask's criterion is to be called; None takes what the file says.

    Raises:
        UserError: a tensor is no parameter of the checkpoint or has another shape, or the file says that it is of
            another checkpoint.
    """
    manifest, plain = Manifest.read(folder / MANIFEST), read_plain(path)
    if plain.checkpoint:
        plain.check_made_for(manifest.fingerprint, path)
    names = {name: manifest.tied.get(name, name) for name in plain.bits}
    if len(set(names.values())) < len(names):
        twice = next(name for name, stored in names.items() if name != stored and stored in names)
        raise UserError(f"{path}: '{twice}' and '{names[twice]}' are one tied parameter; give one mask for both")
    for name, stored in names.items():
        _check_parameter(path, manifest, name, stored, plain.shapes[name])
    order = sorted(names, key=lambda name: names[name].encode())
    mask = replace(
        plain,
        bits={names[name]: plain.bits[name] for name in order},
        shapes={names[name]: plain.shapes[name] for name in order},
        kept={names[name]: plain.kept[name] for name in order},
        criterion=criterion or plain.criterion,
        checkpoint=manifest.fingerprint,
    )
    write_whole_mask(output, mask)
    return Imported(mask, tuple(name for name in Selection().names(manifest) if name not in mask.bits))


def _check_parameter(path: Path, manifest: Manifest, name: str, stored: str, shape: tuple[int, ...]) -> None:
    entry = manifest.tensors.get(stored)
    if entry is None or entry.buffer:
        example = next(each for each, tensor in manifest.tensors.items() if not tensor.buffer)
        raise UserError(f"{path}: '{name}' is no parameter of {manifest.architecture}; they are named like '{example}'")
    if entry.shape != shape:
        raise UserError(f"{path}: '{name}' has shape {list(shape)}, in {manifest.architecture} {list(entry.shape)}")


def _expanded(bits: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, bits.size, _BYTES):
        yield unpack(bits[start : start + _BYTES], (min(size - 8 * start, 8 * _BYTES),))
