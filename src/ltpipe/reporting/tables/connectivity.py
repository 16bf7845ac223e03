"""Lines between two trainings: one row per point of a line."""

from collections.abc import Sequence

from ltpipe.reporting.columns import percent
from ltpipe.reporting.sections import Section, as_it_is, section
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
    ordered = sorted(lines, key=lambda line: (line.study, line.replicate, line.level, line.branches))
    rows = [
        {name: getattr(line, name) for name in COLUMNS if hasattr(line, name)}
        | {
            "training": line.study,
            "first": line.branches[0],
            "second": line.branches[1],
            "alpha": alpha,
            "error": error,
        }
        for line in ordered
        for alpha, error in zip(line.alphas, line.errors, strict=True)
    ]
    return frame(rows, COLUMNS)


def _section(table: Frame) -> Section:
    return section(
        "Linear mode connectivity",
        "Test error along the line between two trainings from one rewinding point that saw the data in "
        "different orders. Barrier: the largest error on the line minus the mean error of its ends. "
        f"Stable: below {percent(STABLE)}.",
        table.drop_duplicates(["training", "replicate", "level", "first", "second"]),
        {
            "training": as_it_is("training"),
            "replicate": as_it_is("replicate"),
            "level": as_it_is("level"),
            "trainings": lambda row: f"{row['first']} and {row['second']}",
            "barrier, points": lambda row: f"{100 * row['barrier']:.2f}",
            "stable": lambda row: "yes" if row["stable"] else "no",
        },
    )


TABLE = Table(
    name="connectivity",
    of="linear connectivity",
    row="a point of a line",
    columns=COLUMNS,
    needs="lines",
    trained=lambda found: connectivity_table(found.lines),
    section=_section,
    figure="connectivity",
    category="Trainings",
)
