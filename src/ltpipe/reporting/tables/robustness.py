"""What perturbed weights cost, dense models and tickets: one row a perturbed model."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from ltpipe.analysis.confidence import bounds, interval, loss_difference, resample, retention
from ltpipe.analysis.samples import check_once
from ltpipe.evaluation.metrics import Metrics
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.frames import frame

COLUMNS: dict[str, str] = {
    "model": "string",
    "data": "string",
    "perturbation": "string",
    "perturbation_seed": "Int64",
    "criterion": "string",
    "scope": "string",
    "seed": "Int64",
    "sparsity": "float64",
    "loss": "float64",
    "perplexity": "float64",
    "accuracy": "float64",
    "performance_retention": "float64",
    "performance_retention_low": "float64",
    "performance_retention_high": "float64",
    "loss_difference": "float64",
    "loss_difference_low": "float64",
    "loss_difference_high": "float64",
    "agreement": "float64",
    "kl_top_k": "float64",
    "unperturbed_loss": "float64",
    "perturbed_dense_loss": "float64",
    "baseline_loss": "float64",
}
"""Columns of the robustness table and their dtypes. Losses and divergences are nats per token.

Columns in `_low` and `_high` are the bounds of 95 % intervals.
"""

_AXES = ("model", "data", "perturbation", "perturbation_seed", "criterion", "scope", "seed", "sparsity")
_AS_IT_IS = {"perturbation": None, "perturbation_seed": None}
_DENSE = {"criterion": None, "scope": None, "seed": None, "sparsity": None}


def robustness_table(
    baselines: Sequence[Metrics], tickets: Sequence[Metrics], perturbed: Sequence[Metrics]
) -> pd.DataFrame:
    """One row a perturbed model, in a fixed order, beside three other losses.

    `unperturbed_loss` is that of the same model or ticket with its weights as they are, `perturbed_dense_loss` that of
    the dense model under the same perturbation, `baseline_loss` that of the dense model as it is, against which
    retention is measured. `loss_difference` is what the perturbation adds to the model's own loss. The dense model has
    no criterion and a sparsity of 0.

    Raises:
        UserError: one of these was not given, or is of another checkpoint or other sequences, or two are of one cell.
    """
    check_once("perturbed", perturbed)
    known = {_cell(metrics): metrics for metrics in (*baselines, *tickets, *perturbed)}

    def beside(metrics: Metrics, **axes: Any) -> Metrics:
        where = f"{metrics.model} on {metrics.data}, {metrics.perturbation}"
        other = known.get(_cell(replace(metrics, **axes)))
        if other is None:
            raise UserError(f"{where}: what a perturbed model is compared with was not given")
        inputs = metrics.provenance["inputs"]
        other.check_measured_on({what: inputs.get(what) for what in ("checkpoint", "sequences")}, where)
        return other

    rows = []
    for metrics in perturbed:
        itself, dense = beside(metrics, **_AS_IT_IS), beside(metrics, **_AS_IT_IS, **_DENSE)
        rows.append(
            {name: getattr(metrics, name) for name in COLUMNS if hasattr(metrics, name)}
            | {
                "sparsity": float(metrics.sparsity or 0),
                "unperturbed_loss": itself.loss,
                "perturbed_dense_loss": beside(metrics, **_DENSE).loss,
                "baseline_loss": dense.loss,
                "loss_difference": metrics.loss - itself.loss,
                **_intervals(metrics, itself, dense),
            }
        )
    table = frame(rows, COLUMNS)
    return table.sort_values(list(_AXES), kind="stable", na_position="first", ignore_index=True)


def _intervals(metrics: Metrics, itself: Metrics, dense: Metrics) -> dict[str, float]:
    """Bounds of what the perturbation adds to the loss, and of retention."""
    changed, unchanged, baseline = resample([found.sequences for found in (metrics, itself, dense)])
    count = len(metrics.sequences.tokens)
    return bounds("loss_difference", interval(loss_difference(changed, unchanged), count)) | bounds(
        "performance_retention", interval(retention(changed, baseline), count)
    )


def _cell(metrics: Metrics) -> tuple[object, ...]:
    return tuple(getattr(metrics, axis) for axis in _AXES)
