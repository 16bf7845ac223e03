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


def swap_until_none_helps(weight: np.ndarray, gram: np.ndarray, kept: np.ndarray, group: int, rounds: int) -> None:
    """Swap a pruned and a kept weight of a row while that makes the error of its outputs smaller.

    With the error e = pruned weights of a row and c = G e, keeping i instead of j changes e G e^T by
    (w_i^2 G_ii - 2 w_i c_i) + (w_j^2 G_jj + 2 w_j c_j) - 2 w_i w_j G_ij (SparseSwaps, 2512.10922). Each round offers
    every pruned weight of the row its best partner, among those that are cheapest to prune; once that helps no more,
    among all.

    Args:
        weight: float64 [rows, columns].
        gram: Gram matrix, float64 [columns, columns].
        kept: bool [rows, columns], changed in place.
        group: length of the runs in which both have to be; 0 for the whole row.
        rounds: most rounds for a row.
    """
    correlations = np.where(kept, 0.0, weight) @ gram
    swaps = np.zeros((len(weight), 2), np.int64)  # of each row: number so far, whether it goes on
    _swap(weight, gram, np.diag(gram).copy(), kept, correlations, group, rounds, swaps)


_TOGETHER = 8
"""Rows that a thread goes through side by side, because a row of the Gram matrix is far away and serves them all."""
_NEAR = 16
"""Least number of partners that a round tries, and how many times more columns there are: others rarely help."""


@numba.njit(parallel=True, cache=True)
def _swap(weight, gram, squares, kept, correlations, group, rounds, swaps):
    rows, columns = weight.shape
    for part in numba.prange((rows + _TOGETHER - 1) // _TOGETHER):
        first, last = part * _TOGETHER, min((part + 1) * _TOGETHER, rows)
        costs = np.empty((last - first, columns))  # of pruning a kept weight; no pruned one can be chosen
        cheapest = np.empty(last - first)
        most = np.full((last - first, columns), np.inf)  # that a partner can save beside what it and i do alone
        least = np.zeros(last - first)
        for row in range(first, last):
            cheapest[row - first] = _update(costs[row - first], weight[row], squares, correlations[row], kept[row])
            for j in range(columns):  # a smaller gain may be rounding, and rounding could swap forever
                least[row - first] -= 1e-12 * weight[row, j] * weight[row, j] * squares[j]
        near = np.empty((last - first, max(_NEAR, columns // _NEAR)), np.int64)  # partners to try first
        count = np.zeros(last - first, np.int64)
        whole = np.full(last - first, group > 0)  # whether this round tries all
        swaps[first:last, 1] = 1
        for _ in range(rounds):
            before = swaps[first:last, 0].copy()
            for row in range(first, last):
                if swaps[row, 1] and not whole[row - first]:
                    count[row - first] = _cheapest(costs[row - first], near[row - first])
            for i in range(columns):
                start = i // group * group if group else 0
                stop = start + group if group else columns
                for row in range(first, last):
                    if kept[row, i] or not swaps[row, 1]:
                        continue
                    values, cost, back, own = weight[row], costs[row - first], weight[row, i], row - first
                    gain = back * (back * squares[i] - 2.0 * correlations[row, i])
                    if gain + cheapest[own] - most[own, i] >= least[own]:
                        continue
                    j, best = start, np.inf
                    if whole[own]:
                        if most[own, i] == np.inf and group == 0:
                            most[own, i] = 2.0 * abs(back) * _largest(values, gram[i]) * (1.0 + 1e-12)
                        if gain + _least(cost, values, gram[i], start, stop, 2.0 * back) >= least[own]:
                            continue
                        for place in range(start, stop):
                            change = cost[place] - 2.0 * back * values[place] * gram[i, place]
                            if change < best:
                                j, best = place, change
                    else:
                        for place in near[own, : count[own]]:
                            change = cost[place] - 2.0 * back * values[place] * gram[i, place]
                            if change < best:
                                j, best = place, change
                    if gain + best >= least[own]:
                        continue
                    kept[row, i], kept[row, j] = True, False
                    swaps[row, 0] += 1
                    for place in range(columns):
                        correlations[row, place] += values[j] * gram[j, place] - back * gram[i, place]
                    cheapest[own] = _update(cost, values, squares, correlations[row], kept[row])
            for row in range(first, last):
                own = row - first
                if swaps[row, 0] == before[own]:
                    if whole[own]:
                        swaps[row, 1] = 0
                    whole[own] = True
                else:
                    whole[own] = group > 0
            if not swaps[first:last, 1].any():
                break


@numba.njit(cache=True)
def _cheapest(costs, near):
    """Write the places of the least costs, as many as there is room for, and return how many are below infinity."""
    limit = np.partition(costs, near.size - 1)[near.size - 1] if near.size < costs.size else np.inf
    count = 0
    for place in range(costs.size):
        if costs[place] <= limit and costs[place] < np.inf and count < near.size:
            near[count] = place
            count += 1
    return count


@numba.njit(cache=True)
def _update(costs, values, squares, correlations, kept):
    """Write the costs of pruning each kept weight of a row, and return the least."""
    cheapest = np.inf
    for j in range(values.size):
        cost = values[j] * (values[j] * squares[j] + 2.0 * correlations[j])
        costs[j] = cost if kept[j] else np.inf
        cheapest = min(cheapest, costs[j])
    return cheapest


@numba.njit(cache=True, fastmath={"nnan", "nsz"})
def _largest(values, products):
    largest = 0.0
    for place in range(values.size):
        largest = max(largest, abs(values[place] * products[place]))
    return largest


@numba.njit(cache=True, fastmath={"nnan", "nsz"})
def _least(costs, values, products, start, stop, twice):
    """Return the least cost of a partner; as a loop of its own, compiled to vector instructions."""
    least = np.inf
    for place in range(start, stop):
        least = min(least, costs[place] - twice * values[place] * products[place])
    return least


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
