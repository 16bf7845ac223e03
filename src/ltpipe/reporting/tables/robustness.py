"""What perturbed weights cost dense models and tickets: one row per perturbed model."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ltpipe.analysis.confidence import bounds, interval, loss_difference, resample, retention
from ltpipe.analysis.samples import AXES, check_once
from ltpipe.evaluation.metrics import Metrics
from ltpipe.reporting.cells import mask_name, value, with_interval
from ltpipe.reporting.table import Table
from ltpipe.reporting.tables.axes import CURVE, SPARSITY, TEXT
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.frames import Columns, Frame, count, frame, is_missing, measured, number, word

COLUMNS: Columns = {
    **TEXT,
    "perturbation": word("how the weights are perturbed: noise-X (noise), or intB (rounding to B bits)"),
    "perturbation_seed": count("seed of the noise"),
    **CURVE,
    **SPARSITY,
    "loss": number("loss of the perturbed model, nats/token"),
    "perplexity": number("exp(loss)"),
    "accuracy": number("accuracy, a fraction"),
    **measured("performance_retention", "loss of the unperturbed dense model / loss"),
    **measured("loss_difference", "loss that the perturbation adds to that of the same model, nats/token"),
    "agreement": number("fraction of tokens predicted as by the dense model"),
    "kl": number("KL divergence from the dense model's predictions, nats/token"),
    "unperturbed_loss": number("loss of the same model or ticket without perturbation, nats/token"),
    "perturbed_dense_loss": number("loss of the dense model under the same perturbation, nats/token"),
    "baseline_loss": number("loss of the unperturbed dense model, nats/token"),
}

_AS_IT_IS = {"perturbation": None, "perturbation_seed": None}
_DENSE = {"criterion": None, "scope": None, "seed": None, "sparsity": None}


def robustness_table(baselines: Sequence[Metrics], tickets: Sequence[Metrics], perturbed: Sequence[Metrics]) -> Frame:
    """Return one row per perturbed model, in a fixed order, with three other losses.

    `unperturbed_loss` is the loss of the same model or ticket without perturbation, `perturbed_dense_loss` that of the
    dense model under the same perturbation, and `baseline_loss` that of the unperturbed dense model, against which
    retention is measured. `loss_difference` is what the perturbation adds to the model's own loss. The dense model has
    no criterion and a sparsity of 0.

    Raises:
        UserError: one of these is missing, belongs to another checkpoint or other sequences, or is given twice.
    """
    check_once("perturbed", perturbed)
    known = {_cell(metrics): metrics for metrics in (*baselines, *tickets, *perturbed)}

    def beside(metrics: Metrics, **axes: Any) -> Metrics:
        where = f"{metrics.model} on {metrics.data}, {metrics.perturbation}"
        other = known.get(_cell(replace(metrics, **axes)))
        if other is None:
            raise UserError(f"{where}: the metrics that a perturbed model is compared with are missing; give them too")
        inputs = metrics.provenance["inputs"]
        other.check_measured_on({what: inputs.get(what) for what in ("checkpoint", "sequences")}, where)
        return other

    rows = []
    for metrics in perturbed:
        itself, dense = beside(metrics, **_AS_IT_IS), beside(metrics, **_AS_IT_IS, **_DENSE)
        rows.append(
            vars(metrics)
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
    return table.sort_values(list(AXES), kind="stable", na_position="first", ignore_index=True)


def _intervals(metrics: Metrics, itself: Metrics, dense: Metrics) -> dict[str, float]:
    """Return the bounds of what the perturbation adds to the loss, and of retention."""
    changed, unchanged, baseline = resample([found.sequence_sums for found in (metrics, itself, dense)])
    count = len(metrics.sequence_sums.tokens)
    return bounds("loss_difference", interval(loss_difference(changed, unchanged), count)) | bounds(
        "performance_retention", interval(retention(changed, baseline), count)
    )


def _cell(metrics: Metrics) -> tuple[object, ...]:
    return tuple(getattr(metrics, axis) for axis in AXES)


TABLE = Table(
    name="robustness",
    of="robustness",
    row="a perturbed model",
    columns=COLUMNS,
    needs="perturbations",
    key=AXES,
    stage="tables",
    measured=lambda found: robustness_table(found.dense, found.tickets, found.perturbed),
    title="Robustness",
    note="Losses in nats/token with perturbed weights: noise-X adds Gaussian noise of X times the root mean square of "
    "a tensor, intB rounds to B bits. Pruned weights stay zero. Retention is against the unperturbed dense model.",
    cells={
        "model": value("model"),
        "text": value("data"),
        "ticket": lambda row: "dense" if is_missing(row["criterion"]) else mask_name(row),
        "perturbation": value("perturbation"),
        "loss": value("loss", "{:.4f}".format),
        "loss − unperturbed": with_interval("loss_difference", "{:+.4f}".format),
        "dense, perturbed": value("perturbed_dense_loss", "{:.4f}".format),
        "retention": with_interval("performance_retention", "{:.4f}".format),
    },
)
