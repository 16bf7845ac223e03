"""The hot loops over rank keys, compiled by numba.

A block is a flat array of uint16 or uint32. Its rank keys are its elements without their top bit: for the bit pattern
of a float that is the bit pattern of its magnitude, which orders like the magnitude itself.
"""

from collections.abc import Sequence

import numba
import numpy as np

COARSE_BITS = 16
"""Keys of 31 bits are counted by their upper 16 bits first, then by the rest inside the bins that matter."""

_PARALLEL_FROM = 1 << 16
_CHUNK = 8192  # keys that are staged at a time, small enough for the first-level cache
_LANES = 4  # a run of equal keys then increments four counters in turn instead of waiting for one


def use_threads(threads: int) -> None:
    """Run the kernels on `threads` threads (at most the number numba started with)."""
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))


def key_bits(block: np.ndarray) -> int:
    """Width of a block's rank keys: 15 or 31 bits."""
    return 8 * block.itemsize - 1


def count_coarse(block: np.ndarray) -> np.ndarray:
    """Histogram of a block's keys (15 bits), or of their upper 16 bits (31 bits). int64 [2^15 or 2^16]."""
    parts = _parts(block.size)
    if block.dtype == np.uint32:
        return _count_coarse32(block, parts).sum((0, 1), dtype=np.int64)
    head = min(-(block.ctypes.data // 2) % 4, block.size)
    tail = (block.size - head) % 4
    words = block[head : block.size - tail].view(np.uint64)
    counts = _count16(words, parts).sum((0, 1), dtype=np.int64)
    np.add.at(counts, block[:head] & 0x7FFF, 1)
    np.add.at(counts, block[block.size - tail :] & 0x7FFF, 1)
    return counts


def count_fine(block: np.ndarray, coarse: Sequence[int]) -> np.ndarray:
    """Histograms of the lower 15 bits of those 31-bit keys whose upper 16 bits are in `coarse`.

    Returns int64 [len(coarse), 2^15], from one read of the block.
    """
    rows = np.full(1 << COARSE_BITS, -1, np.int32)
    rows[list(coarse)] = range(len(coarse))
    return _count_fine32(block, rows, len(coarse), _parts(block.size)).sum(0, dtype=np.int64)


def pack(block: np.ndarray, threshold: int, ties: int) -> tuple[np.ndarray, int]:
    """Keep-bits of a block: keys below `threshold` and the first `ties` keys equal to it are pruned.

    Returns the bits, packed little-endian (uint8 [ceil(size / 8)]), and the number of ties left for the next block.
    """
    parts = _parts(block.size)
    magnitude = block.dtype.type((1 << key_bits(block)) - 1)
    limit = block.dtype.type(threshold)
    quota = np.zeros(parts, np.int64)
    if ties:
        equal = np.cumsum(_count_equal(block, magnitude, limit, parts))
        quota = np.maximum(ties - np.concatenate(([0], equal[:-1])), 0)
        ties = max(ties - int(equal[-1]), 0)
    return _pack(block, magnitude, limit, block.dtype.type(threshold + 1), quota, parts), ties


def _parts(size: int) -> int:
    return numba.get_num_threads() if size >= _PARALLEL_FROM else 1


@numba.njit(parallel=True, cache=True)
def _count16(words, parts):
    counts = np.zeros((parts, _LANES, 1 << 15), np.uint32)
    one, low = np.uint32(1), np.uint64(0x7FFF)
    for part in numba.prange(parts):
        mine = counts[part]
        for i in range(part * words.size // parts, (part + 1) * words.size // parts):
            word = words[i]
            mine[0, word & low] += one
            mine[1, (word >> np.uint64(16)) & low] += one
            mine[2, (word >> np.uint64(32)) & low] += one
            mine[3, (word >> np.uint64(48)) & low] += one
    return counts


@numba.njit(parallel=True, cache=True)
def _count_coarse32(block, parts):
    counts = np.zeros((parts, _LANES, 1 << COARSE_BITS), np.uint32)
    one = np.uint32(1)
    for part in numba.prange(parts):
        mine = counts[part]
        for i in range(part * block.size // parts, (part + 1) * block.size // parts):
            mine[i & (_LANES - 1), (block[i] >> np.uint32(15)) & np.uint32(0xFFFF)] += one
    return counts


@numba.njit(parallel=True, cache=True)
def _count_fine32(block, rows, height, parts):
    counts = np.zeros((parts, height, 1 << 15), np.uint32)
    for part in numba.prange(parts):
        mine = counts[part]
        for i in range(part * block.size // parts, (part + 1) * block.size // parts):
            row = rows[(block[i] >> np.uint32(15)) & np.uint32(0xFFFF)]
            if row >= 0:
                mine[row, block[i] & np.uint32(0x7FFF)] += np.uint32(1)
    return counts


@numba.njit(cache=True)
def _compare(chunk, magnitude, limit, staged):
    """Stage whether each key reaches the limit, one byte a key: a loop that becomes vector instructions."""
    for i in range(chunk.size):
        staged[i] = (chunk[i] & magnitude) >= limit


@numba.njit(cache=True)
def _count_equal_in(chunk, magnitude, limit, staged):
    for i in range(chunk.size):
        staged[i] = (chunk[i] & magnitude) == limit
    staged[chunk.size : (chunk.size + 7) // 8 * 8] = 0
    words = staged.view(np.uint64)
    total = np.uint64(0)
    for i in range((chunk.size + 7) // 8):
        total += (words[i] * np.uint64(0x0101010101010101)) >> np.uint64(56)
    return np.int64(total)


@numba.njit(parallel=True, cache=True)
def _count_equal(block, magnitude, limit, parts):
    counts = np.zeros(parts, np.int64)
    chunks = (block.size + _CHUNK - 1) // _CHUNK
    for part in numba.prange(parts):
        staged = np.zeros(_CHUNK, np.uint8)
        for c in range(part * chunks // parts, (part + 1) * chunks // parts):
            counts[part] += _count_equal_in(block[c * _CHUNK : (c + 1) * _CHUNK], magnitude, limit, staged)
    return counts


@numba.njit(cache=True)
def _prune_first(chunk, magnitude, limit, ties, staged):
    for i in range(chunk.size):
        if ties and (chunk[i] & magnitude) == limit:
            staged[i] = 0
            ties -= 1


@numba.njit(parallel=True, cache=True)
def _pack(block, magnitude, limit, above, quota, parts):
    """Keep-bits of a block in which part p prunes the first quota[p] keys that equal the limit; above = limit + 1."""
    bits = np.empty((block.size + 7) // 8, np.uint8)
    chunks = (block.size + _CHUNK - 1) // _CHUNK
    for part in numba.prange(parts):
        staged = np.zeros(_CHUNK, np.uint8)
        words = staged.view(np.uint64)
        left = quota[part]
        for c in range(part * chunks // parts, (part + 1) * chunks // parts):
            chunk = block[c * _CHUNK : (c + 1) * _CHUNK]
            equal = _count_equal_in(chunk, magnitude, limit, staged) if left else 0
            _compare(chunk, magnitude, above if 0 < equal <= left else limit, staged)
            staged[chunk.size : (chunk.size + 7) // 8 * 8] = 0
            if equal > left:
                _prune_first(chunk, magnitude, limit, left, staged)
            left -= min(left, equal)
            packed = bits[c * _CHUNK // 8 : (c + 1) * _CHUNK // 8]
            for i in range(packed.size):  # eight bytes of 0 or 1 to the eight bits of one byte
                packed[i] = (words[i] * np.uint64(0x0102040810204080)) >> np.uint64(56)
    return bits
