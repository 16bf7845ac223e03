"""What each tensor of a mask keeps, as counted by the stage `validation`."""

from ltpipe.analysis.validation_table import LAYERS
from ltpipe.reporting.table import Table

TABLE = Table(
    name="layers",
    of="what the tensors of masks keep",
    row="a mask and tensor",
    columns=LAYERS,
    stage="validation",
    title="Sparsity of layers",
    figure="layers",
    category="Masks",
    suffixes=(".parquet",),
)
