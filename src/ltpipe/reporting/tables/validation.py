"""One row per mask, as written by the stage `validation`."""

from ltpipe.analysis.validation_table import VALIDATION
from ltpipe.reporting.cells import mask_name, value
from ltpipe.reporting.table import Table

TABLE = Table(
    name="validation",
    of="validation of masks",
    row="a mask",
    columns=VALIDATION,
    key=("model", "criterion", "scope", "seed", "sparsity"),
    stage="validation",
    title="Validation of masks",
    note="Broken: the mask is not what it claims to be. Warnings: it is, but it cuts off part of the model.",
    cells={
        "model": value("model"),
        "mask": mask_name,
        "verdict": value("verdict"),
        "reasons": value("reasons"),
    },
    suffixes=(".csv",),
)
