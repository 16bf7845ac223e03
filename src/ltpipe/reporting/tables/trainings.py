"""One row per run of a training."""

from ltpipe.reporting.table import Table
from ltpipe.reporting.tables.axes import BRANCH, LEVEL, TRAINING
from ltpipe.reporting.trainings import Trainings
from ltpipe.runtime.frames import Columns, Frame, count, frame, number
from ltpipe.training.record import Branch

COLUMNS: Columns = {
    **TRAINING,
    **LEVEL,
    "branch": BRANCH["branch"],
    "branch_seed": count("number of the control, for kinds with several"),
    "donor": BRANCH["donor"],
    "kept": count("prunable weights that are trained"),
    "total": count("prunable weights"),
    "weights_remaining": number("kept / total"),
    "early_stop_iteration": count("iteration of the first minimum of the validation loss"),
    "validation_loss": number("loss on validation data at that iteration, nats per label"),
    "validation_accuracy": number("accuracy on validation data at that iteration, a fraction"),
    "test_loss": number("loss on test data at that iteration, nats per label"),
    "test_accuracy": number("accuracy on test data at that iteration, a fraction"),
    "final_test_loss": number("loss on test data at the end, nats per label"),
    "final_test_accuracy": number("accuracy on test data at the end, a fraction"),
    "seconds": number("wall time of the training"),
}


def trainings_table(trainings: Trainings) -> Frame:
    """Return one row per run, by training, replicate, level and branch."""
    rows = []
    for record in trainings.records:
        branch = Branch.named(record.branch)
        row = {name: getattr(record, name) for name in COLUMNS if hasattr(record, name)}
        rows.append(row | {"branch": branch.kind, "branch_seed": branch.seed, "donor": branch.donor})
    table = frame(rows, COLUMNS)
    return table.sort_values(["training", "replicate"], kind="stable", ignore_index=True)


TABLE = Table(
    name="trainings",
    of="trainings",
    row="a run of a training",
    columns=COLUMNS,
    needs="trainings",
    trained=lambda found: trainings_table(found.trainings),
)
