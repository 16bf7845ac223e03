"""The loops of solvers, compiled by numba. Rows are independent, so results do not depend on the number of threads."""

import numba
import numpy as np


def solve_columns(weight: np.ndarray, upper: np.ndarray, kept: np.ndarray, group: int, pruned: int) -> np.ndarray:
    """Prune columns from left to right and let the columns after each make up for it; return the errors to pass on.

    Args:
        weight: float64 [rows, columns], changed in place; pruned weights become 0.
        upper: upper Cholesky factor of the inverse of the Gram matrix, float64 [columns, columns].
        kept: bool [rows, columns]; written if there are groups.
        group: length of runs of which `pruned` weights are chosen as they are reached; 0 if `kept` is given.
        pruned: weights to prune in a run; among equals the earlier first.

    Returns:
        float64 [rows, columns], by which the columns after these change: errors @ their rows of the factor.
    """
    errors = np.empty_like(weight)
    _solve_columns(weight, upper, kept, group, pruned, errors)
    return errors


@numba.njit(parallel=True, cache=True)
def _solve_columns(weight, upper, kept, group, pruned, errors):
    rows, columns = weight.shape
    for row in numba.prange(rows):
        values, stay = weight[row], kept[row]
        for i in range(columns):
            if group and i % group == 0:
                _choose(values[i : i + group], upper, i, stay[i : i + group], pruned)
            error = 0.0 if stay[i] else values[i] / upper[i, i]
            errors[row, i] = error
            if not stay[i]:
                values[i] = 0.0
                for j in range(i + 1, columns):
                    values[j] -= error * upper[i, j]


@numba.njit(cache=True)
def _choose(values, upper, first, stay, pruned):
    """Keep all but the `pruned` least of a run, by the error that each would leave."""
    stay[:] = True
    for _ in range(pruned):
        least = -1
        smallest = np.inf
        for i in range(values.size):
            score = (values[i] / upper[first + i, first + i]) ** 2
            if stay[i] and score < smallest:
                least, smallest = i, score
        stay[least] = False
