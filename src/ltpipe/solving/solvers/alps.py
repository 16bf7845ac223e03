"""ALPS: ADMM until the mask stays, then conjugate gradients."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ltpipe.runtime.errors import UserError
from ltpipe.solving.solver import Copies, Solver, SolverOptions

if TYPE_CHECKING:
    import numpy as np

    from ltpipe.solving.pattern import Pattern

_TOGETHER = 3
"""Iterations with the same penalty."""
_GROWTH = ((0.1, 1.3), (0.005, 1.2), (0.0, 1.1))
"""Factors of the penalty, each if at least this share of the kept weights has changed meanwhile."""


@dataclass(frozen=True)
class Options(SolverOptions):
    """Options of ALPS.

    Attributes:
        damping: what is added to the diagonal of the normalised Gram matrix.
        penalty: ρ at first, the weight of the difference between the dense and the sparse copy.
        iterations: most iterations of ADMM, which end when the mask stays.
        steps: steps of conjugate gradients.
    """

    damping: float = 0.01
    penalty: float = 0.1
    iterations: int = 300
    steps: int = 10

    def __post_init__(self) -> None:
        """Raise UserError if a value is not allowed."""
        for name in ("damping", "penalty"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"{name}: {getattr(self, name)} is not allowed; use a number above 0")
        for name, least in (("iterations", 1), ("steps", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name}: {getattr(self, name)} is not allowed; use a whole number of at least {least}")


class ALPS(Solver):
    """Operator splitting with a penalty that grows, then conjugate gradients (Meng et al. 2024, 2406.07831).

    Weights are multiplied by the norms of their inputs, so that magnitudes are Wanda's scores. The mask prunes the
    smallest in each iteration (algorithm 1). Then the kept weights go towards the least squares of their rows, preset
    by the diagonal of the Gram matrix, which is 1 in these units (algorithm 2).
    """

    updates = True
    options = Options

    @staticmethod
    def solve(
        weight: "np.ndarray", gram: "np.ndarray", pattern: "Pattern", options: Options
    ) -> tuple["np.ndarray", "np.ndarray"]:
        """See `Solver`."""
        import numpy as np

        from ltpipe.solving.algebra import normalise, product

        norms = normalise(weight, gram, options.damping)
        wanted, prune, penalty = product(weight, gram), pattern.pruned(*weight.shape), options.penalty
        kept = pattern.keep(np.abs(weight), prune)
        sparse, dual = weight, np.zeros_like(weight)
        for start in range(0, options.iterations, _TOGETHER):
            before, inverse = kept, _inverse(gram, penalty)
            for _ in range(start, min(start + _TOGETHER, options.iterations)):
                sparse *= penalty
                sparse -= dual
                sparse += wanted
                current = product(sparse, inverse)
                dual /= penalty
                dual += current
                kept = pattern.keep(np.abs(dual), prune)
                sparse = np.where(kept, dual, 0)
                dual -= sparse
                dual *= penalty
            del inverse  # before the next
            changed = int((kept & ~before).sum()) / max(1, int(kept.sum()))
            if not changed:
                break
            penalty *= next(factor for least, factor in _GROWTH if changed >= least)
        del current, dual
        _descend(sparse, wanted, gram, kept, options.steps)
        return kept, sparse / norms

    @staticmethod
    def copies(options: Options) -> Copies:  # noqa: ARG004
        """See `Solver`."""
        return 6.3, 2.5


def _inverse(gram: "np.ndarray", penalty: float) -> "np.ndarray":
    """Return the inverse of a Gram matrix with a penalty on its diagonal."""
    from ltpipe.solving.algebra import product, upper_of_inverse

    whole = gram.copy()
    whole.flat[:: len(gram) + 1] += penalty
    upper = upper_of_inverse(whole)
    del whole
    return product(upper.T, upper)


def _descend(sparse: "np.ndarray", wanted: "np.ndarray", gram: "np.ndarray", kept: "np.ndarray", steps: int) -> None:
    """Take steps of conjugate gradients towards sparse @ gram = wanted in the kept weights, row by row, in place."""
    import numpy as np

    from ltpipe.solving.algebra import product

    rest = wanted - product(sparse, gram)
    rest *= kept
    towards, square = rest.copy(), np.square(rest).sum(1)
    for _ in range(steps):
        image = product(towards, gram)
        image *= kept
        along = (towards * image).sum(1)
        length = np.divide(square, along, out=np.zeros_like(along), where=along > 0)[:, None]
        sparse += length * towards
        image *= length
        rest -= image
        after = np.square(rest).sum(1)
        towards *= np.divide(after, square, out=np.zeros_like(after), where=square > 0)[:, None]
        towards += rest
        square = after


SOLVER = ALPS
