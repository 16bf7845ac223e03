"""Masked copies of tensors on the CPU: one pass that casts and masks, compiled by numba.

No loop branches on a bit: whether a weight is pruned is unpredictable, and a misprediction costs more than a copy.
"""

import numba
import numpy as np
import torch

_CHUNK = 1 << 18
"""Values that torch casts at a time, few enough to be masked while they are in the cache; a multiple of 8."""


_SCATTERED = 1 << 16
"""Elements that a thread writes at a time; a multiple of 8."""


def masked_copy(stored: torch.Tensor, bits: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return a copy of a tensor in `dtype`, with zeros where a bit is not set.

    The result equals `stored.to(dtype).masked_fill_(pruned, 0)` bit for bit.

    Args:
        stored: contiguous tensor of N values on the CPU; may be read-only.
        bits: packed little-endian, uint8 [ceil(N / 8)].
        dtype: dtype of the copy, of 2, 4 or 8 bytes.
    """
    copy = torch.empty(stored.shape, dtype=dtype)
    values, kept = stored.view(-1), copy.view(-1)
    whole = len(values) // 8 * 8  # the rest shares the last byte of bits
    if stored.dtype == torch.bfloat16 and dtype == torch.float32:
        _widen(_as(np.uint16, values), bits.numpy(), _as(np.uint32, kept), torch.get_num_threads())
    elif stored.dtype == dtype and stored.data_ptr() % 8 == 0:
        _mask(values[:whole], bits, kept[:whole])
    else:
        chunks = (each[:whole].split(_CHUNK) for each in (kept, values))
        for part, stored_part, part_bits in zip(*chunks, bits.split(_CHUNK // 8), strict=False):
            part.copy_(stored_part)
            _mask(part, part_bits, part)
    for place in range(whole, len(values)):
        kept[place] = values[place] if bits[-1] >> place - whole & 1 else 0
    return copy


def scattered(values: np.ndarray, bits: np.ndarray, size: int) -> np.ndarray:
    """Return a flat array of `size` elements: the values, in order, where a bit is set, and zeros elsewhere.

    Args:
        values: uint16, uint32 or uint64 [kept], or floats of such a width.
        bits: packed little-endian, uint8 [ceil(size / 8)].
        size: number of elements.
    """
    result = np.zeros(size, values.dtype)
    if not values.size:
        return result
    parts = [bits[start : start + _SCATTERED // 8] for start in range(0, bits.size, _SCATTERED // 8)]
    counts = [int(np.bitwise_count(part).sum(dtype=np.int64)) for part in parts]
    starts = np.cumsum([0, *counts[:-1]])
    kind = f"u{values.dtype.itemsize}"
    _scatter(values.view(kind), bits, result.view(kind), starts, _SCATTERED)
    return result


def _mask(values: torch.Tensor, bits: torch.Tensor, kept: torch.Tensor) -> None:
    """Write those of [N] values that have a bit to `kept`, zeros for the others; N is a multiple of 8."""
    size = values.element_size()
    words = _WORDS[size]
    bytes_ = bits[: len(values) // 8].numpy()
    _keep(_as(np.uint64, values), bytes_, _as(np.uint64, kept), words, (0,) * size, torch.get_num_threads())


def _as(dtype: type, values: torch.Tensor) -> np.ndarray:
    """Return the bytes of [N] values as an array of another dtype."""
    return values.view(torch.uint8).numpy().view(dtype)


def _words(size: int) -> np.ndarray:
    """Return which bytes of eight values of `size` bytes stay, for each byte of bits: uint64 [256, size]."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    return (np.repeat(bits, size, axis=1) * np.uint8(255)).view(np.uint64)


_WORDS = {size: _words(size) for size in (2, 4, 8)}


@numba.njit(parallel=True, cache=True)
def _keep(values, bits, kept, words, unrolled, parts):
    """Mask uint64 words, of which `len(unrolled)` belong to a byte of bits: a length that the compiler knows."""
    size = len(unrolled)
    for part in numba.prange(parts):
        for i in range(part * bits.size // parts, (part + 1) * bits.size // parts):
            for j in range(size):
                kept[size * i + j] = values[size * i + j] & words[bits[i], j]


@numba.njit(parallel=True, cache=True)
def _widen(values, bits, kept, parts):
    """Write bfloat16 values that have a bit as float32, whose upper half they are."""
    whole = values.size // 8
    for part in numba.prange(parts):
        for i in range(part * whole // parts, (part + 1) * whole // parts):
            byte = np.uint32(bits[i])
            for j in range(8):
                keep = np.uint32(0) - ((byte >> np.uint32(j)) & np.uint32(1))
                kept[8 * i + j] = (np.uint32(values[8 * i + j]) << np.uint32(16)) & keep


@numba.njit(parallel=True, cache=True)
def _scatter(values, bits, result, starts, step):
    last = values.size - 1
    for part in numba.prange(starts.size):
        place = starts[part]
        for i in range(part * step, min((part + 1) * step, result.size)):
            kept = (bits[i >> 3] >> (i & 7)) & 1
            result[i] = values[min(place, last)] * kept
            place += kept
