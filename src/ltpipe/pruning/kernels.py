"""The hot loops over rank keys, compiled by numba.

A block is a flat array of uint16 or uint32. Its rank keys are its elements without the top bit: for a float's bit
pattern this is the bit pattern of its magnitude, which orders like the magnitude itself.
"""

from collections.abc import Sequence

import numba
import numpy as np

from ltpipe.runtime.digest import Digest
from ltpipe.runtime.digest_kernels import add_terms

COARSE_BITS = 16
"""31-bit keys are counted by their upper 16 bits first, then by the remaining bits in the bins that matter."""

_PARALLEL_FROM = 1 << 16
_CHUNK = 8192  # keys staged at a time, small enough for the L1 cache
_LANES = 2  # runs of equal keys increment two counters in turn; clearing more would slow down small tensors


def use_threads(threads: int) -> None:
    """Run the kernels on `threads` threads (at most the number numba started with)."""
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))


def key_bits(block: np.ndarray) -> int:
    """Return the width of a block's rank keys: 15 or 31 bits."""
    return 8 * block.itemsize - 1


def count_coarse(block: np.ndarray, seen: Digest | None = None) -> np.ndarray:
    """Return the histogram of a block's keys (15 bits) or their upper 16 bits (31 bits), int64 [2^15 or 2^16].

    `seen` digests the block's bytes in the same pass.
    """
    parts = _parts(block.size)
    digested, first = _on_the_way(block, seen)
    if block.dtype == np.uint32:
        counts, terms = _count_coarse32(block, parts, digested, first)
        _tell(seen if digested else None, block, terms)
        return counts
    head = min(-(block.ctypes.data // 2) % 4, block.size)
    tail = (block.size - head) % 4
    counts, terms = _count16(block[head : block.size - tail].view(np.uint64), parts, digested, first)
    _tell(seen if digested else None, block, terms)
    np.add.at(counts, block[:head] & 0x7FFF, 1)
    np.add.at(counts, block[block.size - tail :] & 0x7FFF, 1)
    return counts


def count_fine(block: np.ndarray, coarse: Sequence[int]) -> np.ndarray:
    """Return histograms of the lower 15 bits of the 31-bit keys whose upper 16 bits are in `coarse`.

    Returns int64 [len(coarse), 2^15], from one read of the block.
    """
    rows = np.full(1 << COARSE_BITS, -1, np.int32)
    rows[list(coarse)] = range(len(coarse))
    return _count_fine32(block, rows, len(coarse), _parts(block.size)).sum(0, dtype=np.int64)


def pack(block: np.ndarray, threshold: int, ties: int, seen: Digest | None = None) -> tuple[np.ndarray, int]:
    """Return a block's keep-bits: keys below `threshold` and the first `ties` keys equal to it are pruned.

    `seen` digests the block's bytes in the same pass.

    Returns the bits, packed little-endian (uint8 [ceil(size / 8)]), and the number of ties left for the next block.
    """
    digested, first = _on_the_way(block, seen)
    kind = block.dtype.type
    limits = np.array([threshold, threshold + 1] if ties else [threshold], kind)
    magnitude = kind((1 << key_bits(block)) - 1)
    words, terms = _reaching(block, magnitude, limits, _parts(block.size), digested, first)
    _tell(seen if digested else None, block, terms)
    if ties:
        ties = _prune_first(words[0], words[1], ties)
    return words[0].view(np.uint8)[: (block.size + 7) // 8], ties


def add_by_unit(values: np.ndarray, start: int, run: int, sums: np.ndarray) -> None:
    """Add element `start + i` of a tensor, `values[i]`, to its unit's sum.

    Units alternate, `run` elements each. Every sum is added element by element, so it does not depend on how the tensor
    was split into blocks.

    Args:
        values: float32 [N].
        start: flat index of the first value.
        run: number of neighbouring elements of one unit.
        sums: float64 [units], changed in place.
    """
    _add_by_unit(values, start, run, sums)


def _parts(size: int) -> int:
    return numba.get_num_threads() if size >= _PARALLEL_FROM else 1


def _on_the_way(block: np.ndarray, seen: Digest | None) -> tuple[bool, np.uint64]:
    """Return whether a kernel should digest a block, and its first word's index; digest a misaligned block here."""
    if seen is None:
        return False, np.uint64(0)
    if block.ctypes.data % 8:
        seen.update(block)
        return False, np.uint64(0)
    return True, np.uint64(seen.words)


def _tell(seen: Digest | None, block: np.ndarray, terms: int) -> None:
    """Add a kernel's terms of a block's whole words to the digest, then the bytes after them."""
    if seen is not None:
        words = block.nbytes // 8
        seen.add(int(terms), words)
        seen.update(block[words * 8 // block.itemsize :])


@numba.njit(cache=True)
def _added(counts):
    """Return the sum of the histograms of all parts and lanes."""
    total = np.zeros(counts.shape[2], np.int64)
    for part in range(counts.shape[0]):
        for lane in range(counts.shape[1]):
            total += counts[part, lane]
    return total


@numba.njit(cache=True)
def _whole_words(keys):
    """Return keys as 64-bit words, without an incomplete last word."""
    return keys[: keys.size * keys.itemsize // 8 * 8 // keys.itemsize].view(np.uint64)


@numba.njit(parallel=True, cache=True)
def _count16(words, parts, digested, first):
    counts, terms = np.zeros((parts, _LANES, 1 << 15), np.uint32), np.zeros(parts, np.uint64)
    one, low = np.uint32(1), np.uint64(0x7FFF)
    size = _CHUNK // 4
    chunks = (words.size + size - 1) // size
    for part in numba.prange(parts):
        mine, sum_ = counts[part], np.uint64(0)
        for c in range(part * chunks // parts, (part + 1) * chunks // parts):
            chunk = words[c * size : (c + 1) * size]
            if digested:
                sum_ += add_terms(chunk, first + np.uint64(c * size))
            for word in chunk:
                mine[0, word & low] += one
                mine[1, (word >> np.uint64(16)) & low] += one
                mine[0, (word >> np.uint64(32)) & low] += one
                mine[1, (word >> np.uint64(48)) & low] += one
        terms[part] = sum_
    return _added(counts), terms.sum()


@numba.njit(parallel=True, cache=True)
def _count_coarse32(block, parts, digested, first):
    counts, terms = np.zeros((parts, _LANES, 1 << COARSE_BITS), np.uint32), np.zeros(parts, np.uint64)
    one = np.uint32(1)
    chunks = (block.size + _CHUNK - 1) // _CHUNK
    for part in numba.prange(parts):
        mine, sum_ = counts[part], np.uint64(0)
        for c in range(part * chunks // parts, (part + 1) * chunks // parts):
            chunk = block[c * _CHUNK : (c + 1) * _CHUNK]
            if digested:
                sum_ += add_terms(_whole_words(chunk), first + np.uint64(c * _CHUNK // 2))
            for i in range(chunk.size):
                mine[i & (_LANES - 1), (chunk[i] >> np.uint32(15)) & np.uint32(0xFFFF)] += one
        terms[part] = sum_
    return _added(counts), terms.sum()


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
def _reaching_in(chunk, magnitude, limit, staged, packed):
    """Pack whether each key reaches the limit. One byte per key first, because that loop vectorises."""
    for i in range(chunk.size):
        staged[i] = (chunk[i] & magnitude) >= limit
    staged[chunk.size : packed.size * 8] = 0
    words = staged.view(np.uint64)
    for i in range(packed.size):  # eight bytes of 0 or 1 to the eight bits of one byte
        packed[i] = (words[i] * np.uint64(0x0102040810204080)) >> np.uint64(56)


@numba.njit(parallel=True, cache=True)
def _reaching(block, magnitude, limits, parts, digested, first):
    """Return which keys reach each limit: packed bits, uint64 [limits, ceil(size / 64)], from one read of the block.

    Also returns the sum of the terms of the block's digest, if it is `digested`.
    """
    filled = np.empty((limits.size, (block.size + 63) // 64), np.uint64)
    filled[:, -1:] = 0
    bits = filled.view(np.uint8)[:, : (block.size + 7) // 8]
    chunks = (block.size + _CHUNK - 1) // _CHUNK
    terms, words = np.zeros(parts, np.uint64), _CHUNK * block.itemsize // 8
    for part in numba.prange(parts):
        staged, sum_ = np.empty(_CHUNK, np.uint8), np.uint64(0)
        for c in range(part * chunks // parts, (part + 1) * chunks // parts):
            chunk = block[c * _CHUNK : (c + 1) * _CHUNK]
            for row in range(limits.size):
                packed = bits[row, c * _CHUNK // 8 : (c + 1) * _CHUNK // 8]
                _reaching_in(chunk, magnitude, limits[row], staged, packed)
            if digested:
                sum_ += add_terms(_whole_words(chunk), first + np.uint64(c * words))
        terms[part] = sum_
    return filled, terms.sum()


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
def _add_by_unit(values, start, run, sums):
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
