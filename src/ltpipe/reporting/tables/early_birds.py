"""Masks drawn while the dense model trains: one row per mask."""

from collections.abc import Sequence

from ltpipe.analysis.early_bird import EarlyBird
from ltpipe.reporting.cells import Row, percent, value
from ltpipe.reporting.table import Table
from ltpipe.reporting.tables.axes import TRAINING
from ltpipe.runtime.frames import Columns, Frame, count, frame, number, truth, word

COLUMNS: Columns = {
    **TRAINING,
    "sparsity": number("fraction of the prunable weights that the mask removes"),
    "rule": word("how two masks are compared"),
    "threshold": number("distance below which masks count as alike"),
    "window": count("number of masks that each mask is compared with"),
    "patience": count("number of masks in a row that must be alike"),
    "chance_corrected": truth("whether distances are relative to the distance of independent masks"),
    "iteration": count("iteration of the dense training at which the mask was drawn"),
    "distance": number("largest distance to the masks in the window"),
    "converged": count("iteration of the first converged mask; missing if there is none"),
}


def early_birds_table(birds: Sequence[EarlyBird]) -> Frame:
    """Return one row per mask drawn, by training, replicate, sparsity and iteration."""
    ordered = sorted(birds, key=lambda bird: (bird.training, bird.replicate, float(bird.sparsity)))
    rows = [
        vars(bird) | {"sparsity": float(bird.sparsity), "iteration": iteration, "distance": distance}
        for bird in ordered
        for iteration, distance in zip(bird.iterations, bird.distances, strict=True)
    ]
    return frame(rows, COLUMNS)


def _rule(row: Row) -> str:
    corrected = ", chance-corrected" if row["chance_corrected"] else ""
    return f"{row['rule']} {row['threshold']:g}{corrected}, window {row['window']}, patience {row['patience']}"


TABLE = Table(
    name="early_birds",
    of="early birds",
    row="a mask of an early-bird detection",
    columns=COLUMNS,
    needs="early birds",
    trained=lambda found: early_birds_table(found.birds),
    title="Early-bird tickets",
    note="Masks drawn while the dense model trains, and the first iteration at which they had stopped changing.",
    cells={
        "training": value("training"),
        "replicate": value("replicate"),
        "sparsity": value("sparsity", percent),
        "rule": _rule,
        "converged at iteration": value("converged", "{:,}".format),
    },
    once=("training", "replicate", "sparsity"),
    figure="early_birds",
    category="Trainings",
)
