"""Masks in whatever form a caller has them, one bit a weight."""

from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path

import torch

from ltpipe.pruning.foreign import UNKNOWN, read_any_mask
from ltpipe.pruning.masks import Mask, unpack
from ltpipe.runtime.errors import UserError
from ltpipe.training.packing import packed


class PackedMask(Mapping[str, torch.Tensor]):
    """A mask that takes one bit a weight and reads like a dict of bool tensors: one is made when it is asked for.

    Attributes:
        mask: what is packed.
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
        path: of a mask file, of a safetensors file of bool tensors, or of one that holds the state dict of
            `torch.nn.utils.prune`.

    Raises:
        UserError: there is no such file, or it is no mask.
        DamagedFileError: it is not what was written.
    """
    return dict(PackedMask(read_any_mask(Path(path))))


AnyMask = Mapping[str, torch.Tensor] | str | PathLike[str]
"""Parameter names to bool tensors, True where a weight is kept, or the path of a file that `load_mask` reads."""


def as_mask(
    mask: AnyMask,
    criterion: str = UNKNOWN,
    scope: str = UNKNOWN,
    sparsity: str | None = None,
    seed: int | None = None,
    checkpoint: str = "",
) -> Mask:
    """A mask as mask files hold it; what it is to say of itself is taken from a file, where it comes from one.

    Raises:
        UserError: it is no mapping of names to bool tensors, or its file is none.
    """
    if isinstance(mask, PackedMask):
        return mask.mask
    if isinstance(mask, str | PathLike):
        return read_any_mask(Path(mask))
    if not isinstance(mask, Mapping):
        raise UserError(f"mask: a {type(mask).__name__}; allowed are a dict of bool tensors and the path of a file")
    check_bool(mask)
    return packed({name: kept.cpu() for name, kept in mask.items()}, criterion, scope, seed, checkpoint, sparsity)


def check_bool(mask: Mapping[str, torch.Tensor]) -> None:
    """Raise UserError unless every entry is a bool tensor."""
    for name, kept in mask.items():
        if not isinstance(kept, torch.Tensor) or kept.dtype != torch.bool:
            kind = kept.dtype if isinstance(kept, torch.Tensor) else type(kept).__name__
            raise UserError(f"mask: '{name}' is {kind}; allowed are bool tensors, True where a weight is kept")
