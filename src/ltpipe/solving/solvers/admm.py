"""Pruning and updating by ADMM."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ltpipe.runtime.errors import UserError
from ltpipe.solving.solver import Solver, SolverOptions

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

        norms = np.sqrt(np.diag(gram))
        norms[norms == 0] = 1  # no input, so the weight's score and its update are 0
        live = np.diag(gram) > 0
        gram = gram / norms / norms[:, None]
        diagonal = np.diag_indices(len(gram))
        gram[diagonal] += options.damping * gram[diagonal].mean()
        dense = weight * norms * live
        wanted = dense @ gram
        gram[diagonal] += options.penalty
        inverse = np.linalg.inv(gram)
        current, dual = dense, np.zeros_like(dense)
        for step in range(options.iterations):
            if step < options.gradual:
                share = 1 - (1 - (step + 1) / options.gradual) ** 3
                kept = pattern.keep_gradually(np.abs(current + dual), share)
            sparse = (current + dual) * kept
            dual += current - sparse
            current = (wanted + options.penalty * (sparse - dual)) @ inverse
        return kept, (current + dual) / norms


SOLVER = ADMM
