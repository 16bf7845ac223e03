"""The limit that no mask stage can beat: reading the prunable bytes once, from a warm page cache."""

import os
import struct
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numba
import numpy as np

from ltpipe.checkpoints.tensorfile import TensorFile

_BUFFER = 1 << 20


def read_by_preadv(path: Path, names: Sequence[str], threads: int) -> int:
    """Copy the tensors' bytes out of the page cache, 1 MiB at a time into one buffer per thread.

    Returns:
        Number of bytes read.
    """
    with path.open("rb") as file:
        start = 8 + struct.unpack("<Q", file.read(8))[0]
        specs = TensorFile(path).specs
        pieces = [
            (start + offset, min(_BUFFER, specs[name].end - offset))
            for name in names
            for offset in range(specs[name].begin, specs[name].end, _BUFFER)
        ]

        def read(mine: Sequence[tuple[int, int]]) -> int:
            buffer = memoryview(bytearray(_BUFFER))
            return sum(os.preadv(file.fileno(), [buffer[:length]], offset) for offset, length in mine)

        with ThreadPoolExecutor(threads) as pool:
            return sum(pool.map(read, [pieces[part::threads] for part in range(threads)]))


def read_by_sum(weights: TensorFile, names: Sequence[str]) -> int:
    """Add up the mapped tensors as 64-bit words on numba's threads.

    Returns:
        Number of bytes read.
    """
    tensors = [weights.array(name).reshape(-1).view(np.uint64) for name in names]
    sums = [_sum(words) for words in tensors]
    assert any(sums), "random weights must not add up to zero"
    return sum(words.nbytes for words in tensors)


@numba.njit(parallel=True, cache=True)
def _sum(words):
    total = np.uint64(0)
    for i in numba.prange(words.size):
        total += words[i]
    return total
