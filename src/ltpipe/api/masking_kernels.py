"""Loops over a parameter's values on the CPU, compiled by numba: several times as fast as torch's.

Values are integers of any width, only moved and never computed with. No loop branches on the mask: whether a weight is
pruned is unpredictable, and a branch misprediction costs more than a copy.
"""

import numba
import numpy as np


def select(values: np.ndarray, chosen: np.ndarray, selected: np.ndarray) -> int:
    """Copy the chosen ones of [N] values, in order; return their number.

    Args:
        values: the values.
        chosen: bool [N].
        selected: gets the chosen values; longer by at least one, since unchosen values are written too, each over the
            last.
    """
    whole = values.size // 8 * 8
    return _select(values, chosen[:whole].view(np.uint64), chosen[whole:].view(np.uint8), selected)


def zero(values: np.ndarray, chosen: np.ndarray) -> None:
    """Set the chosen ones of [N] values to zero, in place; `chosen` is bool [N]."""
    _zero(values, chosen.view(np.uint8))


def scatter(values: np.ndarray, bits: np.ndarray, selected: np.ndarray) -> None:
    """Write the values that `select` returned back into [N] values, in place.

    Args:
        values: the values to write to.
        bits: packed little-endian (uint8 [ceil(N / 8)]), 1 where a value was chosen.
        selected: as `select` wrote them.
    """
    _scatter(values, bits, selected)


@numba.njit(nogil=True, cache=True)
def _select(values, words, rest, selected):
    place = np.uint64(0)  # a signed index would be tested for counting from the end
    for word in range(words.size):
        eight = words[word]
        for j in range(8):
            selected[place] = values[8 * word + j]
            place += (eight >> np.uint64(8 * j)) & np.uint64(1)
    for j in range(rest.size):
        selected[place] = values[8 * words.size + j]
        place += np.uint64(rest[j])
    return place


@numba.njit(nogil=True, cache=True)
def _zero(values, chosen):
    for i in range(values.size):
        values[i] = values[i] if chosen[i] == 0 else 0


@numba.njit(nogil=True, cache=True)
def _scatter(values, bits, selected):
    place = np.uint64(0)
    for byte in range(values.size // 8):
        eight = bits[byte]
        for j in range(8):
            chosen = (eight >> j) & 1
            i = 8 * byte + j
            values[i] = selected[place] if chosen else values[i]
            place += np.uint64(chosen)
    for i in range(values.size // 8 * 8, values.size):
        chosen = (bits[i >> 3] >> (i & 7)) & 1
        values[i] = selected[place] if chosen else values[i]
        place += np.uint64(chosen)
