"""Masks in the form of other tools: one bool tensor per weight matrix, True where a weight is kept."""

from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.prunable import Selection
from ltpipe.checkpoints.tensorwriter import TensorData, write_tensors
from ltpipe.exporting.folder import Exported, provenance
from ltpipe.pruning.foreign import adopted, read_any_mask
from ltpipe.pruning.masks import Mask, unpack_chunks, write_whole_mask
from ltpipe.runtime.errors import few


@dataclass(frozen=True)
class Imported:
    """An imported mask, and the weight matrices in the model's blocks that it leaves dense."""

    mask: Mask
    missing: tuple[str, ...]

    def __str__(self) -> str:
        """Return a one-line summary."""
        mask, missing = self.mask, self.missing
        dense = f"; {len(missing)} weight matrices of the blocks have no mask and stay dense: {few(missing)}"
        kept = f"kept {mask.total_kept:,} of {mask.total:,} weights of {len(mask.bits)} tensors"
        return kept + (dense if missing else "")


def export_plain(mask_path: Path, output: Path) -> Exported:
    """Write a mask as a safetensors file of bool tensors, with its provenance in the metadata."""
    mask = read_any_mask(mask_path)
    tensors = [
        TensorData(name, "BOOL", mask.shapes[name], unpack_chunks(bits, prod(mask.shapes[name])))
        for name, bits in mask.bits.items()
    ]
    write_tensors(output, tensors, provenance(mask))
    packed = sum(bits.size for bits in mask.bits.values())
    note = "the mask alone, True where a weight is kept: one byte per weight, where an ltpipe mask uses one bit"
    return Exported(output, (mask.total, mask.total), (packed, mask.total), note)


def import_plain(path: Path, checkpoint: Checkpoint, output: Path, criterion: str | None = None) -> Imported:
    """Write a mask in any form (`read_any_mask`) as a mask of a checkpoint. Exported masks come back byte for byte.

    Args:
        path: the file to import.
        checkpoint: checkpoint that the mask is for.
        output: mask to write.
        criterion: name of the mask's criterion; None takes the one in the file.

    Raises:
        UserError: a tensor is not a parameter of the checkpoint or has another shape, or the file belongs to another
            checkpoint.
    """
    manifest, foreign = checkpoint.manifest, read_any_mask(path)
    if foreign.checkpoint:
        foreign.check_made_for(manifest.fingerprint, path)
    mask = adopted(foreign, manifest, str(path))
    mask = replace(mask, criterion=criterion or mask.criterion)
    write_whole_mask(output, mask)
    return Imported(mask, tuple(name for name in Selection().names(manifest) if name not in mask.bits))
