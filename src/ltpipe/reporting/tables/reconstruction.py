"""How far the outputs of solved tensors are from those of the dense model: one row per solution and tensor."""

from collections.abc import Sequence

from ltpipe.evaluation.metrics import Metrics
from ltpipe.pruning.solution import SolutionErrors
from ltpipe.reporting.table import Table
from ltpipe.reporting.tables.axes import CURVE, SPARSITY
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.frames import Columns, Frame, frame, number, word

COLUMNS: Columns = {
    "model": word("name of the model"),
    **{name: column for name, column in CURVE.items() if name != "seed"},
    **SPARSITY,
    "tensor": word("name of the tensor"),
    "mask_error": number(
        "squared error of the tensor's outputs with the mask alone / squared outputs, on the calibration text"
    ),
    "error": number("the same with the solver's values of kept weights"),
}


def reconstruction_table(dense: Sequence[Metrics], solutions: Sequence[SolutionErrors]) -> Frame:
    """Return one row per solution and tensor, in the order given.

    Raises:
        UserError: a solution is of a checkpoint that none of the dense models has.
    """
    models = {metrics.provenance["inputs"]["checkpoint"]: metrics.model for metrics in dense}
    rows = []
    for found in solutions:
        if found.checkpoint not in models:
            raise UserError(
                f"a solution of {found.criterion}, {found.scope}, {found.sparsity} belongs to another checkpoint than "
                "the dense models; give the solutions of these models"
            )
        rows += [
            {
                "model": models[found.checkpoint],
                "criterion": found.criterion,
                "scope": found.scope,
                "sparsity": float(found.sparsity),
                "tensor": tensor,
                "mask_error": mask_error,
                "error": error,
            }
            for tensor, (mask_error, error) in found.errors.items()
        ]
    return frame(rows, COLUMNS)


TABLE = Table(
    name="reconstruction",
    of="reconstruction errors of solved tensors",
    row="a solution and tensor",
    columns=COLUMNS,
    needs="solvers",
    key=("model", "criterion", "scope", "sparsity", "tensor"),
    stage="tables",
    measured=lambda found: reconstruction_table(found.dense, found.solutions),
    title="Reconstruction errors of solvers",
    figure="reconstruction",
    category="Masks",
)
