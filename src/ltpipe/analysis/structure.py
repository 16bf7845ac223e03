"""Output rows of a weight that keep nothing: such a row outputs zero for any input."""

from collections.abc import Iterator
from math import prod

import numpy as np

from ltpipe.pruning.masks import unpack

_PIECE = 1 << 24  # weights whose mask is unpacked at a time


def live_rows(bits: np.ndarray, stack: tuple[int, ...], inputs_first: bool = False) -> np.ndarray:
    """Return which outputs of a weight keep at least one of their weights.

    Args:
        bits: packed mask of the weight.
        stack: numbers of its matrices, rows and columns (all other dimensions), from `ltpipe.pruning.layout.Layout`.
        inputs_first: the rows are inputs, as in GPT-2's Conv1D.

    Returns:
        Bool array, [matrices * outputs].
    """
    count, rows, columns = stack[0], stack[1], prod(stack[2:])
    pieces = _pieces(bits, count * rows, columns)
    if not inputs_first:
        return np.concatenate([np.zeros(0, np.bool_), *(piece.any(axis=1) for piece in pieces)])
    live, row = np.zeros((count, columns), np.bool_), 0
    for piece in pieces:
        matrices = (row + np.arange(len(piece))) // rows
        starts = np.flatnonzero(np.diff(matrices, prepend=-1))
        live[matrices[starts]] |= np.logical_or.reduceat(piece, starts, axis=0)
        row += len(piece)
    return live.reshape(-1)


def live_heads(rows: np.ndarray, head_size: int) -> np.ndarray | None:
    """Return which attention heads have a live row: bool [heads]; None if the rows are not whole heads."""
    if head_size < 1 or rows.size % head_size:
        return None
    return np.any(rows.reshape(-1, head_size), axis=1)


def _pieces(bits: np.ndarray, rows: int, columns: int) -> Iterator[np.ndarray]:
    """Yield the mask as bool [rows, columns] in pieces that begin with a whole byte."""
    step = max(8, _PIECE // max(columns, 1) // 8 * 8)
    for start in range(0, rows, step):
        count = min(step, rows - start)
        first = start * columns // 8
        yield unpack(bits[first : first + (count * columns + 7) // 8], (count, columns))
