"""What training tickets is worth: one row per recovered ticket, and text or task that it is measured on."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ltpipe.analysis.confidence import Interval, bounds, interval, loss_difference
from ltpipe.analysis.items import differ, mcnemar, paired_interval
from ltpipe.analysis.samples import Evaluated, Sample
from ltpipe.evaluation.quality import perplexity
from ltpipe.pruning.sparsity import Sparsity
from ltpipe.recovery.record import RecoveryRecord
from ltpipe.recovery.settings import CONTROL
from ltpipe.reporting.cells import mask_name, value, with_interval, yes_or_no
from ltpipe.reporting.table import Table
from ltpipe.reporting.tables.axes import CURVE, SPARSITY
from ltpipe.reporting.tables.tasks import task_scores
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.frames import Columns, Frame, count, frame, measured, number, truth, word
from ltpipe.runtime.labels import pruned_by, recovered, recovery_of
from ltpipe.tasks.results import TaskResults

LOSS = "loss"
_PLACE: Columns = {
    "model": word("name of the model"),
    "measured_on": word("name of the text, with @ and the name of the settings for evaluating, or of the task"),
    "metric": word("loss, in nats/token, on a text; a task's metric"),
}
COLUMNS: Columns = {
    **_PLACE,
    **CURVE,
    **SPARSITY,
    "mode": word("what was trained: full, lora or norms-and-biases"),
    "tokens": count("tokens trained on"),
    "trained": count("parameters that training changes, without pruned weights"),
    "seconds": number("wall time of the training"),
    "before": number("the metric of the ticket before, of the dense model for the control"),
    "after": number("the metric after"),
    **measured("change", "metric after minus before, paired by sequence or document"),
    "significant": truth("whether the two differ: an interval that excludes 0, or where answers are right or wrong a "
    "p of McNemar's test below 0.05"),
    "dense": number("the metric of the dense model"),
    "control": number("the metric of the dense model that was trained in the same way"),
    **measured("beyond_control", "metric after minus that of the control, paired"),
}  # fmt: skip

Axes = tuple[Any, ...]
"""Model, criterion, scope, seed and sparsity of a ticket."""
DENSE = None


@dataclass(frozen=True)
class _Place:
    """A text or a task, with a metric of every model.

    Attributes:
        name, metric: the place and the metric.
        values: the metric of the dense model and of each ticket.
        compared: returns the interval of the difference of two of them, and whether it is significant.
    """

    name: str
    metric: str
    values: Mapping[Axes | None, float]
    compared: Callable[[Axes | None, Axes | None], tuple[Interval, bool]]


def recovery_table(
    samples: Sequence[Sample], tasks: Sequence[TaskResults], recoveries: Sequence[RecoveryRecord]
) -> Frame:
    """Return one row per recovered ticket and text, and one per task and metric that is a mean over documents.

    Raises:
        UserError: a recovered ticket has no record, or was not measured before its recovery.
    """
    records = {_axes(record.model, record): record for record in recoveries}
    places = [*map(_text, samples), *_tasks(tasks)]
    return frame([row for place in places for row in _rows(place, records)], COLUMNS)


def _text(sample: Sample) -> _Place:
    found: dict[Axes | None, Evaluated] = {_axes(each.metrics.model, each.metrics): each for each in sample.tickets}
    found[DENSE] = sample.dense

    def compared(a: Axes | None, b: Axes | None) -> tuple[Interval, bool]:
        bounded = interval(loss_difference(found[a].resampled, found[b].resampled), sample.sequences)
        return bounded, bounded.excludes(0.0)

    values = {axes: each.metrics.loss for axes, each in found.items()}
    return _Place(sample.dense.metrics.data, LOSS, values, compared)


def _tasks(tasks: Sequence[TaskResults]) -> Iterator[_Place]:
    for model, task, metric, scores in task_scores(tasks):
        found = {DENSE if each.criterion is None else _axes(model, each): each for each in scores.values()}
        items = {axes: each.items for axes, each in found.items() if each.items is not None}

        def compared(a: Axes | None, b: Axes | None, items: Any = items) -> tuple[Interval, bool]:
            bounded = paired_interval(items[a], items[b])
            return bounded, differ(bounded, mcnemar(items[a], items[b]))

        yield _Place(task, metric, {axes: found[axes].value for axes in items}, compared)


def _rows(place: _Place, records: Mapping[Axes, RecoveryRecord]) -> Iterator[dict[str, Any]]:
    tickets = [axes for axes in place.values if axes is not None]
    for axes in tickets:
        model, criterion, scope, seed, sparsity = axes
        if not recovery_of(criterion):
            continue
        control = (model, recovered(CONTROL.criterion, recovery_of(criterion)), *CONTROL[1:])
        before: Axes | None = (model, pruned_by(criterion), scope, seed, sparsity)
        if axes == control and before not in place.values:
            before = DENSE
        if axes not in records or before not in place.values:
            what = "measurement from before it" if axes in records else "record"
            raise UserError(f"{criterion}, {scope}, {sparsity} of model '{model}': the recovery has no {what}")
        record, (change, significant) = records[axes], place.compared(axes, before)
        row = {
            "model": model, "measured_on": place.name, "metric": place.metric, "criterion": criterion, "scope": scope,
            "seed": seed, "sparsity": float(sparsity), "mode": record.mode, "tokens": record.tokens,
            "trained": record.trained, "seconds": record.seconds, "before": place.values[before],
            "after": place.values[axes], "change": place.values[axes] - place.values[before],
            **bounds("change", change), "significant": significant, "dense": place.values[DENSE],
        }  # fmt: skip
        if control != axes and control in place.values:
            beyond, _ = place.compared(axes, control)
            row |= {"control": place.values[control], "beyond_control": place.values[axes] - place.values[control]}
            row |= bounds("beyond_control", beyond)
        yield row


def _axes(model: str, ticket: Any) -> Axes:
    return model, ticket.criterion, ticket.scope, ticket.seed, Sparsity.of(ticket.sparsity).canonical


def _perplexity(row: Any, key: str) -> str:
    """Show a loss with its perplexity."""
    shown, found = f"{row[key]:.4f}", perplexity(row[key]) if row["metric"] == LOSS else None
    return shown if found is None else f"{shown} ({found:,.2f})"


TABLE = Table(
    name="recovery",
    of="recoveries of tickets",
    row="a recovered ticket, and text or task",
    columns=COLUMNS,
    needs="recoveries",
    key=(*_PLACE, *CURVE, *SPARSITY),
    stage="tables",
    measured=lambda found: recovery_table(found.samples, found.tasks, found.recoveries),
    title="Recovery",
    note="Tickets before and after training with their masks held: the loss on texts, with its perplexity in brackets, "
    "and metrics of tasks. The change is after minus before, with its paired 95% interval. The control is the dense "
    "model, trained on the same tokens in the same way: what a ticket lacks of it is what sparsity still costs. A "
    "ticket that only catches up with the untrained dense model has not shown that much, so the verdict is about "
    "tickets that were not trained.",
    figure="recovery",
    category="Recovery",
    captioned=True,
    cells={
        "model": value("model"),
        "on": value("measured_on"),
        "metric": value("metric"),
        "ticket": mask_name,
        "mode": value("mode"),
        "tokens": value("tokens", "{:,}".format),
        "seconds": value("seconds", "{:,.0f}".format),
        "before": lambda row: _perplexity(row, "before"),
        "after": lambda row: _perplexity(row, "after"),
        "change": with_interval("change", "{:+.4f}".format),
        "significant": value("significant", yes_or_no),
        "beyond the control": with_interval("beyond_control", "{:+.4f}".format),
    },
)
