"""What each tensor of a mask keeps, as counted by the stage `validation`."""

from ltpipe.analysis.validation_table import LAYERS
from ltpipe.reporting.sections import pictured
from ltpipe.reporting.table import Table

TABLE = Table(
    name="layers",
    of="what the tensors of masks keep",
    row="a mask and tensor",
    columns=LAYERS,
    stage="validation",
    section=lambda _, figure: pictured(figure, "layers"),
    figure="layers",
    category="Masks",
    suffixes=(".parquet",),
)
