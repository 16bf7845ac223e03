"""The loops over rows and tiles of a tensor, compiled by numba. Results do not depend on the number of threads."""

from math import fsum

import numba
import numpy as np

from ltpipe.pruning.kernels import key_bits, threads_for

_RANK_UP_TO = 32  # competition size up to which comparing all pairs is faster than counting digits
_CHUNK = 8192


def keep_largest(keys: np.ndarray, prune: int) -> np.ndarray:
    """Keep the largest keys of every row; among ties the earlier is pruned first.

    Args:
        keys: uint16 or uint32 [rows, columns], the top bit ignored.
        prune: number of keys to prune in total, spread evenly over rows; earlier rows lose one more if it does not
            divide evenly.

    Returns:
        bool [rows, columns], True where a key is kept.
    """
    each, extra = divmod(prune, len(keys))
    kept = np.empty(keys.shape, np.bool_)
    bits = key_bits(keys)
    select = _by_rank if keys.shape[1] <= _RANK_UP_TO else _by_digits
    select(
        np.ascontiguousarray(keys),
        keys.dtype.type((1 << bits) - 1),
        bits + 1,
        each,
        extra,
        kept,
        threads_for(keys.size),
    )
    return kept


def tied(keys: np.ndarray, kept: np.ndarray) -> int:
    """Return the number of ties broken by position: keys equal to their row's smallest kept key, if one is pruned.

    Args:
        keys: uint16 or uint32 [rows, columns], the top bit ignored.
        kept: bool [rows, columns]; no pruned key of a row is above a kept one.
    """
    counts = np.zeros(threads_for(keys.size), np.int64)
    _tied(np.ascontiguousarray(keys), keys.dtype.type((1 << key_bits(keys)) - 1), kept, counts)
    return int(counts.sum())


def tile_sums(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return sums over the tiles of a matrix; tiles at the lower and right edges may be smaller.

    Args:
        values: float32 [rows, columns].
        height: rows of a tile.
        width: columns of a tile.

    Returns:
        float64 [tiles down, tiles across]; each is summed in row-major order.
    """
    down, across = (-(-size // step) for size, step in zip(values.shape, (height, width), strict=True))
    sums = np.zeros((down, across))
    _tile_sums(np.ascontiguousarray(values), height, width, sums, min(threads_for(values.size), down))
    return sums


def total(values: np.ndarray) -> float:
    """Return the sum of a flat float32 array: float64 over short chunks, then exact and rounded once."""
    sums = np.empty(-(-values.size // _CHUNK))
    _chunk_sums(values, sums, threads_for(values.size))
    return fsum(sums)


@numba.njit(parallel=True, cache=True)
def _by_rank(keys, magnitude, bits, each, extra, kept, parts):  # noqa: ARG001
    """Keep a key if enough other keys of its row are pruned before it."""
    rows, columns = keys.shape
    for part in numba.prange(parts):
        for row in range(part * rows // parts, (part + 1) * rows // parts):
            prune = each + (row < extra)
            for i in range(columns):
                key = keys[row, i] & magnitude
                before = 0
                for j in range(i):
                    before += (keys[row, j] & magnitude) <= key
                for j in range(i + 1, columns):
                    before += (keys[row, j] & magnitude) < key
                kept[row, i] = before >= prune


@numba.njit(parallel=True, cache=True)
def _by_digits(keys, magnitude, bits, each, extra, kept, parts):
    """Find each row's threshold eight bits at a time, from the top; then cut, and prune its ties up to the count."""
    rows, columns = keys.shape
    for part in numba.prange(parts):
        counts = np.empty(256, np.int64)
        for row in range(part * rows // parts, (part + 1) * rows // parts):
            left = each + (row < extra)
            if left == 0:
                kept[row] = True
                continue
            threshold = np.int64(0)
            for shift in range(bits - 8, -1, -8):
                counts[:] = 0
                for i in range(columns):
                    key = np.int64(keys[row, i] & magnitude)
                    if key >> (shift + 8) == threshold:
                        counts[(key >> shift) & 255] += 1
                digit = 0
                while counts[digit] < left:
                    left -= counts[digit]
                    digit += 1
                threshold = (threshold << 8) | digit
            for i in range(columns):
                key = np.int64(keys[row, i] & magnitude)
                tie = key == threshold and left > 0
                left -= tie
                kept[row, i] = key >= threshold and not tie


@numba.njit(parallel=True, cache=True)
def _tied(keys, magnitude, kept, counts):
    rows, columns = keys.shape
    parts = counts.size
    for part in numba.prange(parts):
        found = 0
        for row in range(part * rows // parts, (part + 1) * rows // parts):
            least = magnitude
            for i in range(columns):
                if kept[row, i]:
                    least = min(least, keys[row, i] & magnitude)
            equal, pruned = 0, 0
            for i in range(columns):
                same = (keys[row, i] & magnitude) == least
                equal += same
                pruned += same and not kept[row, i]
            if 0 < pruned < equal:
                found += equal
        counts[part] = found


@numba.njit(parallel=True, cache=True)
def _tile_sums(values, height, width, sums, parts):
    rows, columns = values.shape
    for part in numba.prange(parts):
        for down in range(part * sums.shape[0] // parts, (part + 1) * sums.shape[0] // parts):
            for row in range(down * height, min((down + 1) * height, rows)):
                for column in range(columns):
                    sums[down, column // width] += values[row, column]


@numba.njit(parallel=True, cache=True)
def _chunk_sums(values, sums, parts):
    for part in numba.prange(parts):
        for chunk in range(part * sums.size // parts, (part + 1) * sums.size // parts):
            added = 0.0
            for i in range(chunk * _CHUNK, min((chunk + 1) * _CHUNK, values.size)):
                added += values[i]
            sums[chunk] = added
