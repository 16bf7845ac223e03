"""Schedules of sparsity over rounds of pruning."""

from ltpipe.runtime.errors import UserError


def exponential_schedule(target: float, rounds: int) -> list[float]:
    """Return the sparsities after each of `rounds` rounds that all prune the same fraction of the remaining weights.

    s_i = 1 - (1 - target)^(i / rounds), the schedule of iterative magnitude pruning (Frankle & Carbin 2019,
    1803.03635). The last is exactly `target`.

    Raises:
        UserError: `target` is not from 0 to below 1, or `rounds` is below 1.
    """
    if not 0 <= target < 1:
        raise UserError(f"target sparsity: {target} is not allowed; use a fraction from 0 to below 1")
    if rounds < 1:
        raise UserError(f"iterations: {rounds} is not allowed; use 1 or more")
    return [*(1 - (1 - target) ** (index / rounds) for index in range(1, rounds)), target]
