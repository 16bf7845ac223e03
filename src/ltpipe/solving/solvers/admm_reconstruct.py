"""The best combination of solvers: ADMM, then training."""

from dataclasses import dataclass

from ltpipe.solving.solvers import reconstruct


@dataclass(frozen=True)
class Options(reconstruct.Options):
    """Options of reconstruct, after ADMM."""

    after: str = "admm"


class ADMMReconstruct(reconstruct.Reconstruct):
    """ADMM (2401.02938) chooses masks and first values, and `reconstruct` trains these."""

    options = Options


SOLVER = ADMMReconstruct
