"""A mask, one a row, as the stage `validation` found them."""

from typing import TYPE_CHECKING

from ltpipe.analysis.validation_table import VALIDATION
from ltpipe.reporting.sections import Section, as_it_is, section, ticket_name
from ltpipe.reporting.table import Table
from ltpipe.runtime.frames import Frame

if TYPE_CHECKING:
    from ltpipe.reporting.charts import Figure


def _section(table: Frame, figure: "Figure | None") -> Section:
    return section(
        "Validation of masks",
        "Broken: not what the mask says it is. Warnings: as promised, but something in the model is cut off.",
        table,
        {
            "model": as_it_is("model"),
            "mask": ticket_name("", sparsity=True),
            "verdict": as_it_is("verdict"),
            "reasons": as_it_is("reasons"),
        },
        file="validation",
        figure=figure,
    )


TABLE = Table(
    name="validation",
    of="validation of masks",
    row="a mask",
    columns=VALIDATION,
    key=("model", "criterion", "scope", "seed", "sparsity"),
    stage="validation",
    section=_section,
    suffixes=(".csv",),
)
