"""Masks as other tools have them: one bool tensor for each weight matrix, True where a weight is kept."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import numpy as np

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.prunable import Selection
from ltpipe.checkpoints.tensorwriter import TensorData, write_tensors
from ltpipe.exporting.folder import Exported, origin
from ltpipe.pruning.foreign import adopted, read_any_mask
from ltpipe.pruning.masks import Mask, unpack, write_whole_mask

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
    mask = read_any_mask(mask_path)
    tensors = [
        TensorData(name, "BOOL", mask.shapes[name], _expanded(bits, prod(mask.shapes[name])))
        for name, bits in mask.bits.items()
    ]
    write_tensors(output, tensors, origin(mask))
    packed = sum(bits.size for bits in mask.bits.values())
    note = "the mask alone, True where a weight is kept: one byte per weight, where an ltpipe mask uses one bit"
    return Exported(output, (mask.total, mask.total), (packed, mask.total), note)


def import_plain(path: Path, checkpoint: Checkpoint, output: Path, criterion: str | None = None) -> Imported:
    """Write a mask in any form (`read_any_mask`) as one of a checkpoint. What we exported comes back byte for byte.

    Args:
        path: of the file.
        checkpoint: that the mask is for.
        output: mask to write.
        criterion: what the mask's criterion is to be called; None takes what the file says.

    Raises:
        UserError: a tensor is no parameter of the checkpoint or has another shape, or the file says that it is of
            another checkpoint.
    """
    manifest, foreign = checkpoint.manifest, read_any_mask(path)
    if foreign.checkpoint:
        foreign.check_made_for(manifest.fingerprint, path)
    mask = adopted(foreign, manifest, str(path))
    mask = replace(mask, criterion=criterion or mask.criterion)
    write_whole_mask(output, mask)
    return Imported(mask, tuple(name for name in Selection().names(manifest) if name not in mask.bits))


def _expanded(bits: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, bits.size, _BYTES):
        yield unpack(bits[start : start + _BYTES], (min(size - 8 * start, 8 * _BYTES),))
