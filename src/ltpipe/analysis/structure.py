"""Which output rows of a weight keep nothing: such a row computes zero, whatever comes in."""

from collections.abc import Iterator
from math import prod

import numpy as np

from ltpipe.pruning.masks import unpack

_PIECE = 1 << 24  # weights whose mask is expanded at a time


def live_rows(bits: np.ndarray, shape: tuple[int, ...], transposed: bool = False) -> np.ndarray:
    """Which outputs of a weight keep at least one of their weights.

    Args:
        bits: packed mask of the weight.
        shape: [out, in] of a linear layer, [experts, out, in] of fused experts, [out, ...] of anything else.
        transposed: the weight is [in, out], as in GPT-2's Conv1D.

    Returns:
        Bool array, [out], or [experts * out] for fused experts.
    """
    if transposed and len(shape) == 2:
        live = np.zeros(shape[1], np.bool_)
        for piece in _pieces(bits, *shape):
            live |= piece.any(axis=0)
        return live
    rows = shape[0] * shape[1] if len(shape) == 3 else shape[0]
    pieces = [piece.any(axis=1) for piece in _pieces(bits, rows, prod(shape) // max(rows, 1))]
    return np.concatenate([np.zeros(0, np.bool_), *pieces])


def live_heads(rows: np.ndarray, head_size: int) -> np.ndarray | None:
    """Which attention heads have a live row: bool [heads]; None if the rows are not made of whole heads."""
    if head_size < 1 or rows.size % head_size:
        return None
    return rows.reshape(-1, head_size).any(axis=1)


def _pieces(bits: np.ndarray, rows: int, columns: int) -> Iterator[np.ndarray]:
    """The mask as bool [rows, columns], so many rows at a time that each piece begins with a whole byte."""
    step = max(8, _PIECE // max(columns, 1) // 8 * 8)
    for start in range(0, rows, step):
        count = min(step, rows - start)
        first = start * columns // 8
        yield unpack(bits[first : first + (count * columns + 7) // 8], (count, columns))
