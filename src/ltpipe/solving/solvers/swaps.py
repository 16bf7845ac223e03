"""Swaps: any mask, improved weight by weight."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ltpipe.runtime.errors import UserError
from ltpipe.solving.solver import Copies, Solver, SolverOptions, check_after, copies_of, pruned_by

if TYPE_CHECKING:
    import numpy as np

    from ltpipe.solving.pattern import Pattern


@dataclass(frozen=True)
class Options(SolverOptions):
    """Options of swaps.

    Attributes:
        after: what makes the mask to improve: a solver with its default options, or magnitude.
        rounds: most rounds; each offers every pruned weight a swap.
    """

    after: str = "wanda-sequential"
    rounds: int = 100

    def __post_init__(self) -> None:
        """Raise UserError if a value is not allowed."""
        check_after(self.after)
        if self.rounds < 1:
            raise UserError(f"rounds: {self.rounds} is not allowed; use a whole number of at least 1")


class Swaps(Solver):
    """1-swaps on the Gram matrix (SparseSwaps, 2512.10922), until none makes the error of a row smaller.

    Rows keep their numbers of pruned weights, and so do runs. Kept weights stay as they are.
    """

    options = Options

    @staticmethod
    def solve(
        weight: "np.ndarray", gram: "np.ndarray", pattern: "Pattern", options: Options
    ) -> tuple["np.ndarray", "np.ndarray"]:
        """See `Solver`."""
        import numpy as np

        from ltpipe.solving.algebra import product
        from ltpipe.solving.kernels import swap_until_none_helps

        kept, _ = pruned_by(options.after, weight, gram, pattern)
        kept = np.ascontiguousarray(kept)
        correlations = product(np.where(kept, 0.0, weight), gram)
        group = pattern.group if pattern.each == "run" else 0
        swap_until_none_helps(weight, gram, kept, correlations, group, options.rounds)
        return kept, weight

    @staticmethod
    def copies(options: Options) -> Copies:
        """See `Solver`."""
        matrices, grams = copies_of(options.after)
        return max(matrices + 1, 3.5), grams + 1


SOLVER = Swaps
