"""Lines between two trainings: one row per point of a line."""

from collections.abc import Sequence

from ltpipe.reporting.cells import percent, value, yes_or_no
from ltpipe.reporting.table import Table
from ltpipe.reporting.tables.axes import LEVEL, TRAINING
from ltpipe.runtime.frames import Columns, Frame, frame, number, truth, word
from ltpipe.training.connectivity import STABLE, Connectivity

COLUMNS: Columns = {
    **TRAINING,
    **LEVEL,
    "first": word("branch at the line's end"),
    "second": word("branch at the line's start"),
    "alpha": number("position on the line, from 0 (the second training) to 1 (the first)"),
    "error": number("test error at that position, a fraction"),
    "barrier": number("largest error on the line minus the mean error of its ends, a fraction"),
    "stable": truth("whether the barrier is small enough for stability"),
}


def connectivity_table(lines: Sequence[Connectivity]) -> Frame:
    """Return one row per point of a line, by training, replicate, level, branches and position."""
    ordered = sorted(lines, key=lambda line: (line.training, line.replicate, line.level, line.branches))
    rows = [
        vars(line) | {"first": line.branches[0], "second": line.branches[1], "alpha": alpha, "error": error}
        for line in ordered
        for alpha, error in zip(line.alphas, line.errors, strict=True)
    ]
    return frame(rows, COLUMNS)


TABLE = Table(
    name="connectivity",
    of="linear connectivity",
    row="a point of a line",
    columns=COLUMNS,
    needs="lines",
    trained=lambda found: connectivity_table(found.lines),
    title="Linear mode connectivity",
    note="Test error along the line between two runs from one rewinding point that saw the data in different orders. "
    "Barrier: the largest error on the line minus the mean error of its ends. "
    f"Stable: below {percent(STABLE)}.",
    cells={
        "training": value("training"),
        "replicate": value("replicate"),
        "level": value("level"),
        "branches": lambda row: f"{row['first']} and {row['second']}",
        "barrier, points": value("barrier", lambda barrier: f"{100 * barrier:.2f}"),
        "stable": value("stable", yes_or_no),
    },
    once=("training", "replicate", "level", "first", "second"),
    figure="connectivity",
    category="Trainings",
)
