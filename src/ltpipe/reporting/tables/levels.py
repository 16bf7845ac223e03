"""One row per training, level and kind of branch: means and differences over replicates, with Student's t intervals.

Differences are paired by replicate. A single replicate has no interval.
"""

from typing import Any

from ltpipe.analysis.confidence import bounds
from ltpipe.analysis.replicates import Estimate, estimate, paired
from ltpipe.reporting.columns import percent
from ltpipe.reporting.sections import Section, as_it_is, section, with_interval
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


def _section(table: Frame) -> Section:
    return section(
        "Levels of iterative magnitude pruning",
        "Means over replicates, with 95% intervals in brackets (Student's t; none if replicates show no spread, as "
        "with a single one). Accuracy is measured on test data with the weights at the early-stop iteration, the "
        "first minimum of the validation loss; differences are in points, paired by replicate.",
        table,
        {
            "training": as_it_is("training"),
            "level": as_it_is("level"),
            "branch": lambda row: "dense model" if is_dense(row) else label(row["branch"], row["donor"]),
            "weights remaining": lambda row: percent(row["weights_remaining"], 1),
            "replicates": as_it_is("replicates"),
            "accuracy, %": with_interval("test_accuracy", "{:.2f}", 100),
            "− dense": with_interval("test_accuracy_minus_dense", "{:+.2f}", 100),
            "− ticket": with_interval("test_accuracy_minus_ticket", "{:+.2f}", 100),
            "early-stop iteration": with_interval("early_stop_iteration", "{:,.0f}"),
            "− ticket's": with_interval("early_stop_iteration_minus_ticket", "{:+,.0f}"),
            "accuracy at the end, %": with_interval("final_test_accuracy", "{:.2f}", 100),
        },
    )


TABLE = Table(
    name="levels",
    of="levels",
    row="a training, level and kind of branch",
    columns=COLUMNS,
    needs="trainings",
    trained=lambda found: levels_table(found.trainings),
    section=_section,
    figure="levels",
    category="Trainings",
)
