"""The loop of `ltpipe.runtime.digest`, compiled by numba."""

import numba
import numpy as np

from ltpipe.runtime.digest import STEP

_STEP, _LOW, _HALF = np.uint64(STEP), np.uint64(0xFFFFFFFF), np.uint64(32)


def sum_terms(words: np.ndarray, first: int) -> np.uint64:
    """Return the sum mod 2^64 of the terms of words, aligned uint64 [N], numbered from `first`."""
    return _sum_terms(words, np.uint64(first), numba.get_num_threads())


@numba.njit(cache=True)
def add_terms(words, first):  # noqa: ANN201
    """Return `sum_terms` for callers that are compiled themselves."""
    total, number = np.uint64(0), first * _STEP
    for i in range(words.size):  # not `for word in words`, which LLVM does not vectorise
        x = words[i] ^ number
        total += (x & _LOW) * (x >> _HALF) + x
        number += _STEP
    return total


@numba.njit(parallel=True, cache=True)
def _sum_terms(words, first, parts):
    sums = np.zeros(parts, np.uint64)
    for part in numba.prange(parts):
        begin, end = part * words.size // parts, (part + 1) * words.size // parts
        sums[part] = add_terms(words[begin:end], first + np.uint64(begin))
    total = np.uint64(0)
    for part in range(parts):
        total += sums[part]
    return total
