"""Weights of a checkpoint as torch tensors, masked as they are read."""

import warnings
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
import torch
from torch._subclasses.fake_tensor import is_fake

from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.pruning.masking_kernels import masked_copy
from ltpipe.pruning.masks import Mask
from ltpipe.runtime.device import has_streams

_CHUNK = 1 << 24  # weights whose mask is expanded at a time


def fetch_from(
    weights: TensorFile,
    mask: Mask | None,
    device: torch.device,
    dtype: torch.dtype,
    others: Mapping[str, torch.dtype] = MappingProxyType({}),
) -> Callable[[str], torch.Tensor]:
    """Return a function from a tensor's name to its masked values on `device`.

    Floating-point tensors have `dtype`, or the dtype in `others` for their name. On the CPU a tensor that needs neither
    conversion nor mask is the mapped file itself, not a copy: do not write to it.
    """

    def fetch(name: str) -> torch.Tensor:
        stored = as_torch(weights.array(name), weights.specs[name].dtype)
        bits = None if mask is None or name not in mask.bits else as_torch(mask.bits[name], "U8")
        return place(stored, bits, device, others.get(name, dtype))

    return fetch


def place(stored: torch.Tensor, bits: torch.Tensor | None, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Put one tensor on a device, in `dtype` if it is floating-point, and masked if there are packed `bits`.

    Bits are transferred packed and expanded on the device, a chunk at a time. On the CPU they are never expanded.
    """
    target = dtype if stored.is_floating_point() else stored.dtype
    if bits is not None and device.type == "cpu":
        if is_fake(stored):
            return torch.empty_like(stored, dtype=target)
        return masked_copy(stored, bits, target)
    if has_streams(device):
        stored = stored.pin_memory()  # otherwise the copy could not overlap with computation
    values = stored.to(device, target, non_blocking=True, copy=bits is not None)
    if bits is not None:
        _prune(values.view(-1), bits.to(device, non_blocking=True))
    return values


def _prune(values: torch.Tensor, bits: torch.Tensor) -> None:
    """Zero those of [N] values whose bits are not set."""
    pruned_by_byte = _table().to(values.device)
    for start in range(0, len(values), _CHUNK):
        part = values[start : start + _CHUNK]
        byte = bits[start // 8 : (start + len(part) + 7) // 8]
        pruned = pruned_by_byte.index_select(0, byte.int()).view(torch.bool)
        part.masked_fill_(pruned[: len(part)], 0)


def _table() -> torch.Tensor:
    """Return, for each byte of packed bits, its eight inverted bits as bytes, the first in the lowest: int64 [256]."""
    kept = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    return torch.from_numpy((1 - kept).view(np.int64)[:, 0].copy())


def as_torch(array: np.ndarray, dtype: str) -> torch.Tensor:
    """Return a stored array as a tensor of the safetensors `dtype` that shares its memory; do not write to it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if dtype == "BF16" else tensor
