"""The verdicts on the masks of a model, as a table."""

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

import pandas as pd

from ltpipe.runtime.frames import frame

if TYPE_CHECKING:  # who reads tables needs neither torch nor kernels
    from ltpipe.analysis.validation import Verdict

VALIDATION: dict[str, str] = {
    "model": "string",
    "criterion": "string",
    "scope": "string",
    "seed": "Int64",
    "sparsity": "float64",
    "verdict": "string",
    "reasons": "string",
    "kept": "Int64",
    "total": "Int64",
    "dead_tensors": "Int64",
    "dead_blocks": "Int64",
    "rows": "Int64",
    "dead_rows": "Int64",
    "heads": "Int64",
    "dead_heads": "Int64",
}
"""Columns of the validation table, one row a mask."""

LAYERS: dict[str, str] = {
    "model": "category",
    "criterion": "category",
    "scope": "category",
    "seed": "Int64",
    "sparsity": "float64",
    "tensor": "category",
    "weights": "Int64",
    "kept": "Int64",
}
"""Columns of the layers table, one row a mask and tensor; names are repeated, hence categories."""


def validation_table(model: str, verdicts: Sequence["Verdict"]) -> pd.DataFrame:
    """One row a mask, as the masks come."""
    rows = []
    for verdict in verdicts:
        mask, found = verdict.mask, verdict.structure
        row = {
            "model": model,
            "criterion": mask.criterion,
            "scope": mask.scope,
            "seed": mask.seed,
            "sparsity": float(mask.sparsity),
            "verdict": verdict.verdict,
            "reasons": "; ".join((*verdict.broken, *verdict.warnings)),
            "kept": mask.total_kept,
            "total": mask.total,
        }
        if found is not None:
            row |= {"dead_tensors": len(found.dead_tensors), "dead_blocks": len(found.dead_blocks)}
            row |= {key: getattr(found, key) for key in ("rows", "dead_rows", "heads", "dead_heads")}
        rows.append(row)
    return frame(rows, VALIDATION)


def layers_table(model: str, verdicts: Sequence["Verdict"]) -> pd.DataFrame:
    """One row a mask and tensor, as the masks come and their tensors stand."""
    # A column at a time: thousands of masks have millions of rows.
    cells = [(verdict.mask, name) for verdict in verdicts for name in verdict.mask.shapes]
    columns = {
        "model": model,
        **{axis: [getattr(mask, axis) for mask, _ in cells] for axis in ("criterion", "scope", "seed")},
        "sparsity": [float(mask.sparsity) for mask, _ in cells],
        "tensor": [name for _, name in cells],
        "weights": [prod(mask.shapes[name]) for mask, name in cells],
        "kept": [mask.kept[name] for mask, name in cells],
    }
    return pd.DataFrame(columns, columns=list(LAYERS)).astype(LAYERS)
