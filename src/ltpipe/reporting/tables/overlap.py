"""One row per pair of masks that differ in one axis, as written by the stage `overlap`."""

from ltpipe.analysis.overlap_tables import OVERLAP
from ltpipe.reporting.cells import mask_name, value, with_chance
from ltpipe.reporting.table import Table

TABLE = Table(
    name="overlap",
    of="overlap of masks",
    row="a pair of masks that differ in one axis",
    columns=OVERLAP,
    stage="overlap",
    title="Overlap of masks",
    note="Masks that differ in one axis. Brackets contain the value for independent masks of the same densities; for "
    "Spearman it is 0.",
    cells={
        "model": value("model"),
        "first": lambda row: mask_name(row, "_a"),
        "second": lambda row: mask_name(row, "_b"),
        "Jaccard": with_chance("jaccard"),
        "Hamming": with_chance("hamming"),
        "Spearman": value("spearman", "{:z.4f}".format),
    },
    figure="overlap",
    category="Masks",
    suffixes=(".csv",),
)
