"""One row per pair of masks that differ in one axis, as written by the stage `overlap`."""

from ltpipe.analysis.overlap_tables import OVERLAP
from ltpipe.reporting.columns import MISSING
from ltpipe.reporting.sections import Section, as_it_is, section, ticket_name, with_chance
from ltpipe.reporting.table import Table
from ltpipe.runtime.frames import Frame, is_missing


def _section(table: Frame) -> Section:
    return section(
        "Overlap of masks",
        "Masks that differ in one axis. Brackets contain the value for independent masks of the same densities; for "
        "Spearman it is 0.",
        table,
        {
            "model": as_it_is("model"),
            "first": ticket_name("_a", sparsity=True),
            "second": ticket_name("_b", sparsity=True),
            "Jaccard": with_chance("jaccard"),
            "Hamming": with_chance("hamming"),
            "Spearman": lambda row: MISSING if is_missing(row["spearman"]) else f"{row['spearman']:z.4f}",
        },
    )


TABLE = Table(
    name="overlap",
    of="overlap of masks",
    row="a pair of masks that differ in one axis",
    columns=OVERLAP,
    stage="overlap",
    section=_section,
    figure="overlap",
    category="Masks",
    suffixes=(".csv",),
)
