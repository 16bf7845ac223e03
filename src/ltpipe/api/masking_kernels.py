"""Loops over a parameter's values on the CPU, compiled by numba: several times as fast as torch's.

Values are integers of any width, only moved and never computed with. No loop branches on the mask: whether a weight is
pruned is unpredictable, and a branch misprediction costs more than a copy.
"""

import numba
import numpy as np


def select(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return the chosen ones of [N] values, in order; `chosen` is bool [N]."""
    room = np.empty(int(np.count_nonzero(chosen)) + 1, values.dtype)  # one extra, since unchosen values are written too
    _select(values, chosen.view(np.uint8), room)
    return room[:-1]


def zero(values: np.ndarray, chosen: np.ndarray) -> None:
    """Set the chosen ones of [N] values to zero, in place; `chosen` is bool [N]."""
    _zero(values, chosen.view(np.uint8))


def scatter(values: np.ndarray, bits: np.ndarray, selected: np.ndarray) -> None:
    """Write the values that `select` returned back into [N] values, in place.

    Args:
        values: the values to write to.
        bits: packed little-endian (uint8 [ceil(N / 8)]), 1 where a value was chosen.
        selected: the chosen values, in order.
    """
    _scatter(values, bits, selected)


@numba.njit(nogil=True, cache=True)
def _select(values, chosen, room):
    place = 0
    for i in range(values.size):
        room[place] = values[i]
        place += chosen[i]


@numba.njit(nogil=True, cache=True)
def _zero(values, chosen):
    for i in range(values.size):
        values[i] = values[i] if chosen[i] == 0 else 0


@numba.njit(nogil=True, cache=True)
def _scatter(values, bits, selected):
    place = 0
    for i in range(values.size):
        chosen = (bits[i >> 3] >> (i & 7)) & 1
        values[i] = selected[place] if chosen else values[i]
        place += chosen
