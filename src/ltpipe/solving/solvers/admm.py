"""Pruning and updating by ADMM."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ltpipe.runtime.errors import UserError
from ltpipe.solving.solver import Copies, Solver, SolverOptions

if TYPE_CHECKING:
    import numpy as np

    from ltpipe.solving.pattern import Pattern


@dataclass(frozen=True)
class Options(SolverOptions):
    """Options of ADMM.

    Attributes:
        damping: what is added to the diagonal of the normalised Gram matrix.
        iterations: number of iterations.
        gradual: iterations in which the sparsity rises, by a cubic schedule; the mask stays as it is afterwards.
        penalty: ρ, the weight of the difference between the dense and the sparse copy.
    """

    damping: float = 0.1
    iterations: int = 20
    gradual: int = 15
    penalty: float = 1.0

    def __post_init__(self) -> None:
        """Raise UserError if a value is not allowed."""
        for name in ("damping", "penalty"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(f"{name}: {getattr(self, name)} is not allowed; use a number above 0")
        if not 1 <= self.gradual <= self.iterations:
            raise UserError(
                f"gradual: {self.gradual} is not allowed; use a whole number from 1 to iterations, {self.iterations}"
            )


class ADMM(Solver):
    """The alternating direction method of multipliers, with a mask that grows (Boža 2024, 2401.02938, algorithm 2).

    Weights are multiplied by the norms of their inputs, so that magnitudes are Wanda's scores. As long as the sparsity
    rises, a mask prunes the smallest of the weights that the final pattern would prune.
    """

    updates = True
    options = Options

    @staticmethod
    def solve(
        weight: "np.ndarray", gram: "np.ndarray", pattern: "Pattern", options: Options
    ) -> tuple["np.ndarray", "np.ndarray"]:
        """See `Solver`."""
        import numpy as np

        from ltpipe.solving.algebra import normalise, product, upper_of_inverse

        norms = normalise(weight, gram, options.damping)
        wanted = product(weight, gram)
        gram.flat[:: len(gram) + 1] += options.penalty
        upper = upper_of_inverse(gram)
        inverse = product(upper.T, upper)
        current, dual = weight, np.zeros_like(weight)
        for step in range(options.iterations):
            total = current + dual
            if step < options.gradual:
                share = 1 - (1 - (step + 1) / options.gradual) ** 3
                kept = pattern.keep_gradually(np.abs(total), share)
            # The sparse copy Z is what is kept of the total, and the dual the rest, so Z - dual has its signs turned.
            dual = np.where(kept, 0, total)
            np.negative(total, where=~kept, out=total)
            total *= options.penalty
            total += wanted
            current = product(total, inverse)
        return kept, (current + dual) / norms

    @staticmethod
    def copies(options: Options) -> Copies:  # noqa: ARG004
        """See `Solver`."""
        return 6.5, 2.2


SOLVER = ADMM
