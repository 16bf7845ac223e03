"""What all exports share: their metadata, and the files beside the weights."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.filenames import GENERATION_CONFIG, TOKENIZER, TOKENIZER_CONFIG
from ltpipe.pruning.masks import Mask
from ltpipe.pruning.solution import Solution


@dataclass(frozen=True)
class Exported:
    """The result of an export.

    Attributes:
        output: file or folder that was written.
        parameters: number of parameters before and after, tied ones counted once.
        nbytes: bytes of tensors before and after.
        note: remark on these numbers.
    """

    output: Path
    parameters: tuple[int, int]
    nbytes: tuple[int, int]
    note: str = ""

    def __str__(self) -> str:
        """Return a one-line summary."""
        (before, after), (bytes_before, bytes_after) = self.parameters, self.nbytes
        sizes = f"{before:,} → {after:,} parameters, {bytes_before:,} → {bytes_after:,} bytes"
        return f"{self.output}: {sizes}" + (f"; {self.note}" if self.note else "")


def provenance(mask: Mask, solution: Solution | None = None) -> dict[str, str]:
    """Return a ticket's provenance, for the metadata of a safetensors file that torch and others read."""
    return {
        "format": "pt",
        "checkpoint": mask.checkpoint,
        "criterion": (solution or mask).criterion,
        "scope": mask.scope,
        "sparsity": mask.sparsity.text,
        "seed": json.dumps(mask.seed),
    }


def copy_companions(checkpoint: Checkpoint, output: Path) -> None:
    """Copy a checkpoint's tokenizer and generation settings.

    Raises:
        UserError: a file is missing.
        DamagedFileError: a file is not what the load stage wrote.
    """
    for name in (TOKENIZER, TOKENIZER_CONFIG, GENERATION_CONFIG):
        shutil.copyfile(checkpoint.verified(name), output / name)
