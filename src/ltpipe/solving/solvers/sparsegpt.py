"""SparseGPT."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ltpipe.runtime.errors import UserError
from ltpipe.solving.solver import Copies, Solver, SolverOptions

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

        from ltpipe.solving.algebra import subtract_product, upper_of_inverse
        from ltpipe.solving.kernels import solve_columns

        rows, columns = weight.shape
        dead = np.diag(gram) == 0
        gram[dead, dead] = 1
        weight[:, dead] = 0
        gram[np.diag_indices(columns)] += options.damping * np.diag(gram).mean()
        upper = upper_of_inverse(gram)
        pivots = np.diag(upper) ** -2
        if not pivots.min() > columns * np.finfo(np.float64).eps * pivots.max():  # also if one is not a number
            raise UserError(
                "the Gram matrix of its inputs is singular; use more calibration sequences, or a larger option damping"
            )
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
            subtract_product(weight[:, stop:], errors, upper[start:stop, stop:])
        return kept, weight

    @staticmethod
    def copies(options: Options) -> Copies:  # noqa: ARG004
        """See `Solver`."""
        return 0.5, 1.5


SOLVER = SparseGPT
