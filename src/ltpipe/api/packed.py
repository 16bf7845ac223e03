"""Conversion of masks in any form to one bit per weight."""

import logging
from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path

import torch

from ltpipe.pruning.foreign import UNKNOWN, read_any_mask
from ltpipe.pruning.masks import Mask, unpack
from ltpipe.runtime.errors import UserError
from ltpipe.training.packing import packed

logger = logging.getLogger(__name__)


class PackedMask(Mapping[str, torch.Tensor]):
    """A mask stored at one bit per weight that reads like a dict of bool tensors, each created on access.

    Attributes:
        mask: the packed mask.
    """

    def __init__(self, mask: Mask) -> None:
        self.mask = mask

    @classmethod
    def of(cls, mask: Mapping[str, torch.Tensor]) -> "PackedMask":
        """Pack bool tensors."""
        return cls(as_mask(mask))

    def __getitem__(self, name: str) -> torch.Tensor:
        return torch.from_numpy(unpack(self.mask.bits[name], self.mask.shapes[name]))

    def __iter__(self) -> Iterator[str]:
        return iter(self.mask.bits)

    def __len__(self) -> int:
        return len(self.mask.bits)


def load_mask(path: str | PathLike[str]) -> dict[str, torch.Tensor]:
    """Read a mask as bool tensors on the CPU, True where a weight is kept, by parameter name.

    Args:
        path: a mask file, a safetensors file of bool tensors, or one with the state dict of `torch.nn.utils.prune`.

    A mask of a solver that also changed the weights it keeps is not the study's ticket by itself; a warning says so.

    Raises:
        UserError: there is no such file, or it is not a mask.
        DamagedFileError: the file is damaged.
    """
    return dict(PackedMask(_read(Path(path))))


def _read(path: Path) -> Mask:
    mask = read_any_mask(path)
    if mask.changed:
        logger.warning(
            "%s: %s also changed the weights that its mask keeps, so the mask alone gives another model than the "
            "study's ticket; ltpipe export --solution writes that",
            path,
            mask.criterion,
        )
    return mask


AnyMask = Mapping[str, torch.Tensor] | str | PathLike[str]
"""Parameter names to bool tensors, True where a weight is kept, or the path of a file for `load_mask`."""


def as_mask(mask: AnyMask) -> Mask:
    """Return a mask as mask files store it; a mask from a file keeps the file's own metadata.

    Raises:
        UserError: the mask is not a mapping of names to bool tensors, or its file is not a mask.
    """
    if isinstance(mask, PackedMask):
        return mask.mask
    if isinstance(mask, str | PathLike):
        return _read(Path(mask))
    if not isinstance(mask, Mapping):
        raise UserError(f"mask: a {type(mask).__name__} is not allowed; use a dict of bool tensors or a file's path")
    for name, kept in mask.items():
        check_bool(name, kept)
    return packed({name: kept.cpu() for name, kept in mask.items()}, UNKNOWN, UNKNOWN, None, "")


def check_bool(name: str, kept: object) -> None:
    """Raise UserError unless a mask's entry is a bool tensor."""
    if not isinstance(kept, torch.Tensor) or kept.dtype != torch.bool:
        kind = kept.dtype if isinstance(kept, torch.Tensor) else type(kept).__name__
        raise UserError(f"mask: '{name}' is {kind}; use a bool tensor, True where a weight is kept")
