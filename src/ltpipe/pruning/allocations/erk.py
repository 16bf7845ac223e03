"""Erdős-Rényi-Kernel: small tensors stay denser than large ones."""

from collections.abc import Sequence
from math import prod

from ltpipe.pruning.allocation import Allocation, by_shares


def erk(shapes: Sequence[Sequence[int]], prune: int) -> list[int]:
    """Erdős-Rényi-Kernel: the density of a tensor is proportional to (sum of its dimensions) / (their product).

    Mocanu et al. 2018 (1707.04780) for matrices, Evci et al. 2020 (RigL, 1911.11134) for kernels. Densities are capped
    at 1, and the rest is scaled up, as in RigL's code.

    Args:
        shapes: [experts, out, in, …] of each tensor; a stack of matrices counts as separate matrices, so it does not
            matter whether a checkpoint fuses its experts.
        prune: number of weights to prune.
    """
    return by_shares([prod(shape) for shape in shapes], [shape[0] * sum(shape[1:]) for shape in shapes], prune)


ALLOCATION = Allocation(lambda request: erk(request.stacks, request.prune))
