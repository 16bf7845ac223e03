"""One row per mask, as written by the stage `validation`."""

from ltpipe.analysis.validation_table import VALIDATION
from ltpipe.reporting.sections import Section, as_it_is, section, ticket_name
from ltpipe.reporting.table import Table
from ltpipe.runtime.frames import Frame


def _section(table: Frame) -> Section:
    return section(
        "Validation of masks",
        "Broken: the mask is not what it claims to be. Warnings: it is, but it cuts off part of the model.",
        table,
        {
            "model": as_it_is("model"),
            "mask": ticket_name("", sparsity=True),
            "verdict": as_it_is("verdict"),
            "reasons": as_it_is("reasons"),
        },
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
