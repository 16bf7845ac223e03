"""The hot loops over rank keys, compiled by numba.

A chunk is a flat array of uint16 or uint32. Its rank keys are its elements without the top bit: for a float's bit
pattern this is the bit pattern of its magnitude, which orders like the magnitude itself.
"""

from collections.abc import Sequence

import numba
import numpy as np

COARSE_BITS = 16
"""31-bit keys are counted by their upper 16 bits first, then by the remaining bits in the bins that matter."""

_PARALLEL_FROM = 1 << 16
_STAGED = 8192  # keys staged at a time, small enough for the L1 cache
_LANES = 2  # runs of equal keys increment two counters in turn; clearing more would slow down small tensors


def use_threads(threads: int) -> None:
    """Run the kernels on `threads` threads (at most the number numba started with)."""
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))


def threads_for(size: int) -> int:
    """Return on how many threads a kernel runs for `size` elements: one for few."""
    return numba.get_num_threads() if size >= _PARALLEL_FROM else 1


def key_bits(chunk: np.ndarray) -> int:
    """Return the width of a chunk's rank keys: 15 or 31 bits."""
    return 8 * chunk.itemsize - 1


def coarse_bins(bits: int) -> int:
    """Return the number of bins in a histogram of keys of 15 or 31 bits."""
    return 1 << min(bits, COARSE_BITS)


def count_coarse(chunk: np.ndarray) -> np.ndarray:
    """Return the histogram of a chunk's keys (15 bits) or their upper 16 bits (31 bits), int64 [2^15 or 2^16]."""
    kind, bins = chunk.dtype.type, coarse_bins(key_bits(chunk))
    shift = max(0, key_bits(chunk) - COARSE_BITS)
    return _count_coarse(chunk, kind(shift), kind(bins - 1), bins, threads_for(chunk.size)).sum((0, 1), np.int64)


def count_fine(chunk: np.ndarray, coarse: Sequence[int]) -> np.ndarray:
    """Return histograms of the lower 15 bits of the 31-bit keys whose upper 16 bits are in `coarse`.

    Returns int64 [len(coarse), 2^15], from one read of the chunk.
    """
    rows = np.full(1 << COARSE_BITS, -1, np.int32)
    rows[list(coarse)] = range(len(coarse))
    return _count_fine(chunk, rows, len(coarse), threads_for(chunk.size)).sum(0, dtype=np.int64)


def pack(chunk: np.ndarray, threshold: int, ties: int) -> tuple[np.ndarray, int]:
    """Return a chunk's keep-bits: keys below `threshold` and the first `ties` keys equal to it are pruned.

    Returns the bits, packed little-endian (uint8 [ceil(size / 8)]), and the number of ties left for the next chunk.
    """
    kind = chunk.dtype.type
    limits = np.array([threshold, threshold + 1] if ties else [threshold], kind)
    words = _reaching(chunk, kind((1 << key_bits(chunk)) - 1), limits, threads_for(chunk.size))
    if ties:
        ties = _prune_first(words[0], words[1], ties)
    return words[0].view(np.uint8)[: (chunk.size + 7) // 8], ties


@numba.njit(parallel=True, cache=True)
def _count_coarse(keys, shift, mask, bins, parts):
    counts = np.zeros((parts, _LANES, bins), np.uint32)
    for part in numba.prange(parts):
        mine, chunk = counts[part], keys[part * keys.size // parts : (part + 1) * keys.size // parts]
        for i in range(chunk.size):
            mine[i & (_LANES - 1), (chunk[i] >> shift) & mask] += np.uint32(1)
    return counts


@numba.njit(parallel=True, cache=True)
def _count_fine(keys, rows, height, parts):
    counts = np.zeros((parts, height, 1 << 15), np.uint32)
    for part in numba.prange(parts):
        mine = counts[part]
        for i in range(part * keys.size // parts, (part + 1) * keys.size // parts):
            row = rows[(keys[i] >> np.uint32(15)) & np.uint32(0xFFFF)]
            if row >= 0:
                mine[row, keys[i] & np.uint32(0x7FFF)] += np.uint32(1)
    return counts


@numba.njit(cache=True)
def _reaching_in(keys, magnitude, limit, staged, packed):
    """Pack whether each key reaches the limit. One byte per key first, because that loop vectorises."""
    for i in range(keys.size):
        staged[i] = (keys[i] & magnitude) >= limit
    staged[keys.size : packed.size * 8] = 0
    words = staged.view(np.uint64)
    for i in range(packed.size):  # eight bytes of 0 or 1 to the eight bits of one byte
        packed[i] = (words[i] * np.uint64(0x0102040810204080)) >> np.uint64(56)


@numba.njit(parallel=True, cache=True)
def _reaching(keys, magnitude, limits, parts):
    """Return which keys reach each limit: packed bits, uint64 [limits, ceil(size / 64)], from one read of the keys."""
    filled = np.empty((limits.size, (keys.size + 63) // 64), np.uint64)
    filled[:, -1:] = 0
    bits = filled.view(np.uint8)[:, : (keys.size + 7) // 8]
    stages = (keys.size + _STAGED - 1) // _STAGED
    for part in numba.prange(parts):
        staged = np.empty(_STAGED, np.uint8)
        for s in range(part * stages // parts, (part + 1) * stages // parts):
            some = keys[s * _STAGED : (s + 1) * _STAGED]
            for row in range(limits.size):
                packed = bits[row, s * _STAGED // 8 : (s + 1) * _STAGED // 8]
                _reaching_in(some, magnitude, limits[row], staged, packed)
    return filled


@numba.njit(cache=True)
def _prune_first(words, above, ties):
    """Clear the first `ties` bits that are not also in `above`; return how many are still to clear."""
    one = np.uint64(1)
    for i in range(words.size):
        equal = words[i] ^ above[i]
        while equal and ties:
            equal &= equal - one
            ties -= 1
        words[i] = above[i] | equal
        if not ties:
            break
    return ties


@numba.njit(cache=True)
def add_by_unit(values, start, run, sums):  # noqa: ANN201
    """Add element `start + i` of a tensor, `values[i]`, to its unit's sum.

    Units alternate, `run` elements each. Every sum is added element by element, so it does not depend on how the tensor
    was split into chunks.

    Args:
        values: float32 [N].
        start: flat index of the first value.
        run: number of neighbouring elements of one unit.
        sums: float64 [units], changed in place.
    """
    unit = (start // run) % sums.size
    left = run - start % run
    position = 0
    while position < values.size:
        end = min(position + left, values.size)
        total = sums[unit]
        for i in range(position, end):
            total += np.float64(values[i])
        sums[unit] = total
        unit = (unit + 1) % sums.size
        position, left = end, run
