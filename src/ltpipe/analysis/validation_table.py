"""The verdicts on the masks of a model, as a table."""

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

from ltpipe.runtime.frames import Column, Columns, Frame, count, dtypes, frame, number, word

if TYPE_CHECKING:  # who reads tables needs neither torch nor kernels
    from ltpipe.analysis.validation import MaskVerdict

_MASK: Columns = {
    "model": word("name of the model"),
    "criterion": word("what ranks the weights"),
    "scope": word("which weights are ranked against each other"),
    "seed": count("seed of a stochastic criterion"),
    "sparsity": number("fraction of the prunable weights that the mask is to prune"),
}

VALIDATION: Columns = {
    **_MASK,
    "verdict": word("sound, warnings (part of the model is cut off) or broken (not what the mask claims to be)"),
    "reasons": word("reasons for broken, and warnings"),
    "kept": count("prunable weights that the mask keeps"),
    "total": count("prunable weights"),
    "dead_tensors": count("tensors without a kept weight"),
    "dead_blocks": count("blocks without a kept weight"),
    "rows": count("rows of all prunable tensors"),
    "dead_rows": count("rows without a kept weight"),
    "heads": count("attention heads"),
    "dead_heads": count("heads without a kept weight"),
}
"""Columns of the validation table, one row per mask."""

LAYERS: Columns = {
    **{
        name: column._replace(dtype="category") if column.dtype == "string" else column
        for name, column in _MASK.items()
    },
    "tensor": Column("category", "name of the tensor"),
    "weights": count("weights of the tensor"),
    "kept": count("weights that the mask keeps"),
}
"""Columns of the layers table, one row per mask and tensor; names repeat, hence categories."""


def validation_table(model: str, verdicts: Sequence["MaskVerdict"]) -> Frame:
    """Return one row per mask, in the order given."""
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


def layers_table(model: str, verdicts: Sequence["MaskVerdict"]) -> Frame:
    """Return one row per mask and tensor, in the order given."""
    import pandas as pd

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
    return pd.DataFrame(columns, columns=list(LAYERS)).astype(dtypes(LAYERS))
