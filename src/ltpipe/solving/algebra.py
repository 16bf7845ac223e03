"""Gram matrices, and products and factors of float64 matrices.

torch's matrix products of widths that are multiples of 64, as most models have, are the same to the byte with any
number of threads: each element is added up in one order. That is measured, not promised by torch, and does not hold for
all widths. numpy's products and both libraries' Cholesky factors depend on the threads at any width, and numpy's
products use all processors, whatever the stage was given.
"""

from itertools import pairwise

import numpy as np
import torch

from ltpipe.solving.kernels import upper_of_small

_SMALL = 100
"""Rows of matrices that are factorised by plain loops."""

_STRIPES = 4
"""Stripes of columns in which a Gram matrix is computed."""
_STRIPE = 256
"""Columns of a matrix whose products with the others are in memory at a time."""


def product(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return first @ second, float64 [rows, columns]."""
    found = np.empty((len(first), second.shape[1]))
    torch.mm(torch.from_numpy(first), torch.from_numpy(second), out=torch.from_numpy(found))
    return found


def subtract_product(target: np.ndarray, first: np.ndarray, second: np.ndarray) -> None:
    """Subtract first @ second from a matrix, float64 [rows, columns], in place."""
    torch.from_numpy(target).addmm_(torch.from_numpy(first), torch.from_numpy(second), alpha=-1)


def gram_matrix(rows: torch.Tensor) -> torch.Tensor:
    """Return X^T X of rows [tokens, inputs], float32 [inputs, inputs] on their device.

    Each stripe of columns is computed from its diagonal block on, and what is below is copied.
    """
    width = rows.shape[1]
    found = rows.new_empty(width, width)
    for start, stop in pairwise(width * stripe // _STRIPES for stripe in range(_STRIPES + 1)):
        torch.mm(rows[:, start:stop].T, rows[:, start:], out=found[start:stop, start:])
        found[stop:, start:stop] = found[start:stop, stop:].T
    return found


def normalise(weight: np.ndarray, gram: np.ndarray, damping: float) -> np.ndarray:
    """Multiply weights by the norms of their inputs, and divide the Gram matrix by them, in place.

    Magnitudes of weights are then Wanda's scores. Weights of inputs that are always zero are 0.

    Args:
        weight: float64 [outputs, inputs].
        gram: Gram matrix, float64 [inputs, inputs].
        damping: what is added to the diagonal, as a fraction of its mean.

    Returns:
        The norms, float64 [inputs]; 1 for inputs that are always zero.
    """
    norms = np.sqrt(np.diag(gram))
    dead = norms == 0
    norms[dead] = 1
    gram /= norms
    gram /= norms[:, None]
    gram.flat[:: len(gram) + 1] += damping * np.diag(gram).mean()
    weight *= norms
    weight[:, dead] = 0
    return norms


def energy(matrix: np.ndarray, gram: np.ndarray) -> float:
    """Return tr(M G M^T), the squared norm of a matrix's outputs.

    As the sum of M^T M times G over all elements, of which those above the diagonal count twice: half of the operations
    of M G.

    Args:
        matrix: float64 [outputs, inputs].
        gram: Gram matrix of the inputs, float64 [inputs, inputs].
    """
    found = 0.0
    for start in range(0, len(gram), _STRIPE):
        stripe = slice(start, start + _STRIPE)
        products = product(matrix[:, stripe].T, matrix[:, start:])
        products *= gram[stripe, start:]
        found += float(2 * products[:, _STRIPE:].sum() + products[:, :_STRIPE].sum())
    return found


def upper_of_inverse(matrix: np.ndarray) -> np.ndarray:
    """Return the upper Cholesky factor V of the inverse of a matrix, which is V^T V.

    The matrix is U U^T with an upper triangular U, whose inverse V is. With the matrix in four parts, A and B, B^T and
    D: the factor of D and that of the rest, A - B D^-1 B^T, are inverted first, and give the rest of V by a product.
    That is half of the operations of inverting the matrix and factorising the inverse.

    Args:
        matrix: symmetric, float64 [rows, rows]; overwritten.

    Returns:
        float64 [rows, rows], upper triangular; not a number somewhere on its diagonal, or infinite, if the matrix is
        not positive definite.
    """
    found = np.zeros_like(matrix)
    _invert(matrix, found)
    return found


def _invert(matrix: np.ndarray, found: np.ndarray) -> None:
    rows = len(matrix)
    if rows <= _SMALL:
        upper_of_small(matrix, found)
        return
    half = rows // 2
    first, second = slice(0, half), slice(half, rows)
    _invert(matrix[second, second], found[second, second])
    right = product(matrix[first, second], found[second, second].T)
    subtract_product(matrix[first, first], right, right.T)
    _invert(matrix[first, first], found[first, first])
    subtract_product(found[first, second], product(found[first, first], right), found[second, second])
