"""Wanda, with the inputs of the model pruned so far."""

from typing import TYPE_CHECKING, Any

from ltpipe.solving.solver import Copies, Solver

if TYPE_CHECKING:
    import numpy as np

    from ltpipe.solving.pattern import Pattern


class WandaSequential(Solver):
    """|W_ij|·‖X_j‖₂ (Sun et al. 2024, 2306.11695, eq. 1), with each block's inputs from the pruned blocks before it."""

    @staticmethod
    def solve(
        weight: "np.ndarray",
        gram: "np.ndarray",
        pattern: "Pattern",
        options: Any,  # noqa: ARG004
    ) -> tuple["np.ndarray", "np.ndarray"]:
        """See `Solver`."""
        import numpy as np

        scores = np.abs(weight) * np.sqrt(np.diag(gram))
        return pattern.keep(scores, pattern.pruned(*weight.shape)), weight

    @staticmethod
    def copies(options: Any) -> Copies:  # noqa: ARG004
        """See `Solver`."""
        return 2, 0


SOLVER = WandaSequential
