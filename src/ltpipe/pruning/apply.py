"""Weights of a checkpoint as torch tensors, masked as they are read."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType

import numpy as np
import torch
from torch._subclasses.fake_tensor import is_fake

from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.pruning.masking_kernels import masked_copy
from ltpipe.pruning.masks import Mask
from ltpipe.pruning.solution import Solution
from ltpipe.runtime.device import has_streams

_CHUNK = 1 << 24  # weights whose mask is expanded at a time


def fetch_from(
    weights: TensorFile,
    mask: Mask | None,
    device: torch.device,
    dtype: torch.dtype,
    others: Mapping[str, torch.dtype] = MappingProxyType({}),
    solution: Solution | None = None,
) -> Callable[[str], torch.Tensor]:
    """Return a function from a tensor's name to its masked values on `device`; with a solution, to those it gives.

    Floating-point tensors have `dtype`, or the dtype in `others` for their name. On the CPU a tensor that needs neither
    conversion nor mask is the mapped file itself, not a copy: do not write to it.
    """

    def fetch(name: str) -> torch.Tensor:
        spec = weights.spec(name)
        if solution is not None and mask is not None and name in solution.values:
            solved = solution.flat(name, mask).reshape(spec.shape)
            return place(as_torch(solved, spec.dtype), None, device, others.get(name, dtype))
        stored = as_torch(weights.array(name), spec.dtype)
        bits = None if mask is None or name not in mask.bits else as_torch(mask.bits[name], "U8")
        return place(stored, bits, device, others.get(name, dtype))

    return fetch


def fetches_from(
    weights: TensorFile,
    masks: Sequence[Mask | None],
    device: torch.device,
    dtype: torch.dtype,
    others: Mapping[str, torch.dtype],
    in_blocks: Callable[[str], bool],
    solution: Solution | None = None,
) -> list[Callable[[str], torch.Tensor]]:
    """Return `fetch_from` for several masks of tensors in blocks, which are fetched for one ticket after the other.

    A device gets each block once: a copy of the dense weights stays there until the last ticket has its own. On the CPU
    all read the mapped file. A ticket with a solution is alone.
    """
    if len(masks) == 1 or device.type == "cpu":
        return [fetch_from(weights, mask, device, dtype, others, solution) for mask in masks]
    dense = fetch_from(weights, None, device, dtype, others)

    def bits_of(mask: Mask | None) -> Callable[[str], torch.Tensor | None]:
        held = {} if mask is None else mask.bits
        return lambda name: as_torch(held[name], "U8") if name in held else None

    return copied_once(dense, [bits_of(mask) for mask in masks], in_blocks)


def copied_once(
    dense: Callable[[str], torch.Tensor],
    bits: Sequence[Callable[[str], torch.Tensor | None]],
    in_blocks: Callable[[str], bool],
) -> list[Callable[[str], torch.Tensor]]:
    """Return a masked fetch for each ticket, of whose tensors in blocks the first ticket makes a dense copy for all.

    Args:
        dense: returns a new copy of a tensor's values.
        bits: each ticket's packed bits of a tensor; None for a tensor without a mask.
        in_blocks: whether a tensor is fetched for every ticket in turn; others are only fetched for the first.
    """
    kept: dict[str, torch.Tensor] = {}

    def fetch(ticket: int, name: str) -> torch.Tensor:
        if not in_blocks(name):
            return dense(name)
        if ticket == 0:
            kept[name] = dense(name)
        elif has_streams(kept[name].device):  # it was copied by the stream that prefetches
            kept[name].record_stream(torch.accelerator.current_stream(kept[name].device))
        last = ticket == len(bits) - 1
        values = kept.pop(name) if last else kept[name]
        packed = bits[ticket](name)
        if packed is None:
            return values
        values = values if last else values.clone()
        _prune(values.view(-1), packed.to(values.device, non_blocking=True))
        return values

    return [partial(fetch, ticket) for ticket in range(len(bits))]


def place(stored: torch.Tensor, bits: torch.Tensor | None, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Put one tensor on a device, in `dtype` if it is floating-point, and masked if there are packed `bits`.

    Bits are transferred packed and expanded on the device, a chunk at a time. On the CPU they are never expanded.
    """
    target = dtype if stored.is_floating_point() else stored.dtype
    if bits is not None and device.type == "cpu":
        return masked(stored, bits, target)
    if has_streams(device):
        stored = stored.pin_memory()  # otherwise the copy could not overlap with computation
    values = stored.to(device, target, non_blocking=True, copy=bits is not None)
    if bits is not None:
        _prune(values.view(-1), bits.to(device, non_blocking=True))
    return values


def masked(values: torch.Tensor, bits: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return a copy of values in `dtype`, with zeros where packed bits on their device are not set."""
    if values.device.type != "cpu":
        copy = values.to(dtype, copy=True)
        _prune(copy.view(-1), bits)
        return copy
    return torch.empty_like(values, dtype=dtype) if is_fake(values) else masked_copy(values, bits, dtype)


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
