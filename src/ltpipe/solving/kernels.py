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


def swap_until_none_helps(
    weight: np.ndarray, gram: np.ndarray, kept: np.ndarray, correlations: np.ndarray, group: int, rounds: int
) -> None:
    """Swap a pruned and a kept weight of a row while that makes the error of its outputs smaller.

    With the error e = pruned weights of a row and c = G e, keeping i instead of j changes e G e^T by
    (w_i^2 G_ii - 2 w_i c_i) + (w_j^2 G_jj + 2 w_j c_j) - 2 w_i w_j G_ij (SparseSwaps, 2512.10922). Each round offers
    every pruned weight of the row its best partner.

    Args:
        weight: float64 [rows, columns].
        gram: Gram matrix, float64 [columns, columns].
        kept: bool [rows, columns], changed in place.
        correlations: c of each row, float64 [rows, columns], changed in place.
        group: length of the runs in which both have to be; 0 for the whole row.
        rounds: most rounds for a row.
    """
    _swap(weight, gram, np.diag(gram).copy(), kept, correlations, group or weight.shape[1], rounds)


_TOGETHER = 8
"""Rows that a thread goes through side by side, because a row of the Gram matrix is far away and serves them all."""


@numba.njit(parallel=True, cache=True)
def _swap(weight, gram, squares, kept, correlations, group, rounds):
    rows, columns = weight.shape
    for part in numba.prange((rows + _TOGETHER - 1) // _TOGETHER):
        first, last = part * _TOGETHER, min((part + 1) * _TOGETHER, rows)
        changes = np.empty((last - first, columns))  # of keeping a pruned weight
        costs = np.empty((last - first, columns))  # of pruning a kept weight; no pruned one can be chosen
        least = np.zeros(last - first)
        for row in range(first, last):
            _update(changes[row - first], costs[row - first], weight[row], squares, correlations[row], kept[row])
            for j in range(columns):  # a smaller gain may be rounding, and rounding could swap forever
                least[row - first] -= 1e-12 * weight[row, j] * weight[row, j] * squares[j]
        goes_on = np.ones(last - first, np.bool_)
        for _ in range(rounds):
            swapped = np.zeros(last - first, np.bool_)
            for i in range(columns):
                run = slice(i // group * group, i // group * group + group)
                for row in range(first, last):
                    own = row - first
                    if kept[row, i] or not goes_on[own]:
                        continue
                    values, twice, limit = weight[row], 2.0 * weight[row, i], least[own] - changes[own, i]
                    if not _any_below(costs[own, run], values[run], gram[i, run], twice, limit):
                        continue
                    j = run.start + _best(costs[own, run], values[run], gram[i, run], twice)
                    kept[row, i], kept[row, j] = True, False
                    for place in range(columns):
                        correlations[row, place] += values[j] * gram[j, place] - values[i] * gram[i, place]
                    _update(changes[own], costs[own], values, squares, correlations[row], kept[row])
                    swapped[own] = True
            goes_on[:] = swapped
            if not goes_on.any():
                break


@numba.njit(cache=True)
def _update(changes, costs, values, squares, correlations, kept):
    """Write by how much the error of a row changes if one weight alone is kept that is pruned, or the reverse."""
    for j in range(values.size):
        own, shared = values[j] * values[j] * squares[j], 2.0 * values[j] * correlations[j]
        costs[j] = own + shared if kept[j] else np.inf
        changes[j] = own - shared


@numba.njit(cache=True)
def _any_below(costs, values, products, twice, limit):
    """Return whether any partner costs less than a limit; compiled to vector instructions, unlike `_best`."""
    found = False
    for j in range(values.size):
        found |= costs[j] - twice * values[j] * products[j] < limit
    return found


@numba.njit(cache=True)
def _best(costs, values, products, twice):
    """Return which partner costs least; among equals the first."""
    best, least = 0, np.inf
    for j in range(values.size):
        cost = costs[j] - twice * values[j] * products[j]
        if cost < least:
            best, least = j, cost
    return best


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


@numba.njit(cache=True, error_model="numpy")
def upper_of_small(matrix: np.ndarray, found: np.ndarray) -> None:
    """Write the upper Cholesky factor of the inverse of a matrix, as `algebra.upper_of_inverse`, by plain loops.

    Args:
        matrix: symmetric, float64 [rows, rows].
        found: zeros, float64 [rows, rows].
    """
    rows = len(matrix)
    factor = np.zeros((rows, rows))
    for i in range(rows - 1, -1, -1):
        for j in range(rows - 1, i - 1, -1):
            rest = matrix[i, j]
            for k in range(j + 1, rows):
                rest -= factor[i, k] * factor[j, k]
            factor[i, j] = rest / factor[j, j] if j > i else np.sqrt(rest)
        found[i, i] = 1.0 / factor[i, i]
        for k in range(i + 1, rows):
            for j in range(k, rows):
                found[i, j] -= factor[i, k] * found[k, j] * found[i, i]
