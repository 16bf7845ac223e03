"""One row per training, level and kind of branch: means and differences over replicates, with Student's t intervals.

Differences are paired by replicate. A single replicate has no interval.
"""

from typing import Any

from ltpipe.analysis.confidence import bounds
from ltpipe.analysis.replicates import Estimate, estimate, paired
from ltpipe.reporting.cells import points, value, with_interval
from ltpipe.reporting.table import Table
from ltpipe.reporting.tables.axes import BRANCH, LEVEL, TRAINING
from ltpipe.reporting.trainings import Trainings, is_dense, label
from ltpipe.runtime.frames import Columns, Frame, count, frame, measured, number

MEASURES = {
    "test_accuracy": "test accuracy at early stop",
    "final_test_accuracy": "test accuracy at the end",
    "test_loss": "test loss at early stop, nats per label",
    "early_stop_iteration": "early-stop iteration",
}
_AGAINST = {
    "": "",
    "_minus_dense": " minus that of the dense model",
    "_minus_ticket": " minus that of the level's ticket",
}

COLUMNS: Columns = {
    "training": TRAINING["training"],
    **LEVEL,
    **BRANCH,
    "weights_remaining": number("fraction of the prunable weights that remain"),
    "replicates": count("number of replicates in the means"),
    **{
        name: column
        for measure, meaning in MEASURES.items()
        for against, words in _AGAINST.items()
        for name, column in measured(f"{measure}{against}", f"mean {meaning}{words}").items()
    },
}


def levels_table(trainings: Trainings) -> Frame:
    """Return one row per training, level, branch kind and donor of transplanted masks, with means over replicates.

    Differences are over replicates too. Neither the dense model (the ticket of level 0) nor a ticket has differences
    from itself.
    """
    rows = []
    for treatment in trainings:
        values = {measure: treatment.values(measure) for measure in MEASURES}
        row: dict[str, Any] = {
            "training": treatment.training,
            "level": treatment.level,
            "branch": treatment.kind,
            "donor": treatment.donor,
            "weights_remaining": treatment.weights_remaining,
            "replicates": len(values["test_accuracy"]),
        }
        for measure in MEASURES:
            row |= _columns(measure, estimate(list(values[measure].values())))
            for name, other in trainings.references(treatment).items():
                if other is not None:
                    row |= _columns(f"{measure}_minus_{name}", paired(values[measure], other.values(measure)))
        rows.append(row)
    return frame(rows, COLUMNS)


def _columns(name: str, found: Estimate | None) -> dict[str, float]:
    return {} if found is None else {name: found.mean, **bounds(name, found.interval)}


def _in_percent(fraction: float) -> str:
    return f"{100 * fraction:.2f}"


TABLE = Table(
    name="levels",
    of="levels",
    row="a training, level and kind of branch",
    columns=COLUMNS,
    needs="trainings",
    trained=lambda found: levels_table(found.trainings),
    title="Levels of iterative magnitude pruning",
    note="Means over replicates, with 95% intervals in brackets (Student's t; none if replicates show no spread, as "
    "with a single one). Accuracy is measured on test data with the weights at the early-stop iteration, the first "
    "minimum of the validation loss; differences are in points, paired by replicate.",
    cells={
        "training": value("training"),
        "level": value("level"),
        "branch": lambda row: "dense model" if is_dense(row) else label(row["branch"], row["donor"]),
        "weights remaining": value("weights_remaining", "{:.1%}".format),
        "replicates": value("replicates"),
        "accuracy, %": with_interval("test_accuracy", _in_percent),
        "− dense": with_interval("test_accuracy_minus_dense", points),
        "− ticket": with_interval("test_accuracy_minus_ticket", points),
        "early-stop iteration": with_interval("early_stop_iteration", "{:,.0f}".format),
        "− ticket's": with_interval("early_stop_iteration_minus_ticket", "{:+,.0f}".format),
        "accuracy at the end, %": with_interval("final_test_accuracy", _in_percent),
    },
    figure="levels",
    category="Trainings",
)
