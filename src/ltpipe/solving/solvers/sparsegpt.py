"""SparseGPT."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ltpipe.runtime.errors import UserError
from ltpipe.solving.solver import Solver, SolverOptions

if TYPE_CHECKING:
    import numpy as np

    from ltpipe.solving.pattern import Pattern


@dataclass(frozen=True)
class Options(SolverOptions):
    """Options of SparseGPT.

    Attributes:
        damping: what is added to the diagonal of the Gram matrix, as a fraction of its mean.
        block: columns whose masks are chosen together.
    """

    damping: float = 0.01
    block: int = 128

    def __post_init__(self) -> None:
        """Raise UserError if a value is not allowed."""
        if not 0 < self.damping < float("inf"):
            raise UserError(f"damping: {self.damping} is not allowed; use a number above 0")
        if self.block < 1:
            raise UserError(f"block: {self.block} is not allowed; use a whole number of at least 1")


class SparseGPT(Solver):
    """Optimal brain surgery column by column (Frantar & Alistarh 2023, 2301.00774, algorithm 1).

    As in the paper's code, the mask of `block` columns is chosen from the weights as updated before them, by
    w² / [H⁻¹]_jj² of the remaining columns; a run of N:M when it is reached. Weights of inputs that are always zero
    are zero. In float64 throughout, so that near-ties do not depend on the machine.
    """

    updates = True
    options = Options

    @staticmethod
    def solve(
        weight: "np.ndarray", gram: "np.ndarray", pattern: "Pattern", options: Options
    ) -> tuple["np.ndarray", "np.ndarray"]:
        """See `Solver`.

        Raises:
            UserError: the Gram matrix is singular in spite of the damping.
        """
        import numpy as np

        from ltpipe.solving.kernels import solve_columns

        rows, columns = weight.shape
        dead = np.diag(gram) == 0
        gram[dead, dead] = 1
        weight[:, dead] = 0
        gram[np.diag_indices(columns)] += options.damping * np.diag(gram).mean()
        upper = _upper_of_inverse(gram)
        step = -(-options.block // pattern.group) * pattern.group
        kept = np.empty(weight.shape, np.bool_)
        done = 0
        for start in range(0, columns, step):
            stop = min(start + step, columns)
            inside = np.ascontiguousarray(upper[start:stop, start:stop])
            part = np.ascontiguousarray(weight[:, start:stop])
            chosen = np.empty(part.shape, np.bool_)
            if pattern.each == "run":
                group, pruned = pattern.group, pattern.pruned(1, pattern.group)
            else:
                group, pruned = 0, 0
                until = pattern.pruned(rows, stop, columns)
                chosen[:] = pattern.keep((part / np.diag(inside)) ** 2, until - done)
                done = until
            errors = solve_columns(part, inside, chosen, group, pruned)
            weight[:, start:stop], kept[:, start:stop] = part, chosen
            weight[:, stop:] -= errors @ upper[start:stop, stop:]
        return kept, weight


def _upper_of_inverse(gram: "np.ndarray") -> "np.ndarray":
    """Return the upper Cholesky factor of the inverse of a positive definite matrix.

    With all rows and columns in reverse, the matrix is L L^T, and the factor is the inverse of L, reversed again: half
    of the operations of inverting the matrix and factorising the inverse.
    """
    import numpy as np
    from scipy.linalg import lapack

    lower, failed = lapack.dpotrf(np.asfortranarray(gram[::-1, ::-1]), lower=1, clean=1, overwrite_a=1)
    pivots = np.diag(lower) ** 2
    if failed or pivots.min() <= len(gram) * np.finfo(np.float64).eps * pivots.max():
        raise UserError(
            "the Gram matrix of its inputs is singular; use more calibration sequences, or a larger option damping"
        )
    inverse, _ = lapack.dtrtri(lower, lower=1, overwrite_c=1)
    factor: np.ndarray = np.ascontiguousarray(inverse[::-1, ::-1])
    return factor


SOLVER = SparseGPT
