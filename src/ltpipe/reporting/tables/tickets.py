"""One row per ticket."""

from collections.abc import Sequence

from ltpipe.analysis.confidence import accuracy_difference, bounds, interval, loss_difference, retention
from ltpipe.analysis.samples import Evaluated, Sample
from ltpipe.evaluation.quality import uniform_loss
from ltpipe.reporting.table import Table
from ltpipe.reporting.tables.axes import SETTINGS, TICKET, settings_in
from ltpipe.reporting.ticket_columns import TICKET_COLUMNS
from ltpipe.runtime.frames import Columns, Frame, bounds_of, count, frame, number, word
from ltpipe.runtime.progress import track

_MEANINGS = {column.key: column.definition for column in TICKET_COLUMNS}


def _as_shown(*names: str) -> Columns:
    """Return columns with the definitions that the page shows."""
    return {name: number(_MEANINGS[name]) for name in names}


COLUMNS: Columns = {
    **TICKET,
    **SETTINGS,
    "kept": count("prunable weights kept"),
    "total": count("prunable weights"),
    "parameters": count("all weights of the model"),
    **_as_shown("loss", "perplexity", "accuracy", "performance_retention"),
    **_as_shown("agreement"), **bounds_of("agreement"), **_as_shown("kl"), **bounds_of("kl"),
    **bounds_of("performance_retention"),
    **_as_shown("loss_difference"), **bounds_of("loss_difference"),
    **_as_shown("accuracy_difference"), **bounds_of("accuracy_difference"),
    "baseline_loss": number("loss of the dense model, nats/token"), **bounds_of("baseline_loss"),
    "uniform_loss": number("loss of a uniform guess over the vocabulary, nats/token"),
    "baseline_perplexity": number("perplexity of the dense model"),
    "baseline_accuracy": number("accuracy of the dense model, a fraction"),
    "tokens": count("predicted tokens"),
    "sequences": count("evaluation sequences"),
    "protocol": word("protocol by which the text was cut into sequences"),
    "precision": word("dtype of the computation"),
    "device": word("device of the evaluation"),
    "execution": word("streamed (block by block) or resident"),
    "planned_bytes": count("planned peak of tensors on the device (in main memory on the CPU), bytes"),
    "measured_bytes": count("measured peak of the same; on the CPU, the growth of private memory, bytes"),
    "peak_host_bytes": count("peak of main memory, including pages of mapped files, bytes"),
    "peak_host_private_bytes": count("peak of main memory without pages of mapped files, bytes"),
    "peak_device_bytes": count("peak of tensors on the accelerator, bytes"),
    "peak_device_reserved_bytes": count("peak of memory reserved by the accelerator's allocator, bytes"),
    "seconds": number("wall time of the evaluation"),
}  # fmt: skip


def tickets_table(samples: Sequence[Sample]) -> Frame:
    """Return one row per ticket, with its dense model's loss, perplexity and accuracy, in a fixed order.

    Every difference from the dense model has a paired 95 % interval.
    """
    rows = []
    for sample in samples:
        baseline = sample.dense.metrics
        for evaluated in track(sample.tickets, "intervals", "ticket"):
            ticket = evaluated.metrics
            rows.append(
                vars(ticket)
                | settings_in(ticket)
                | {
                    "sparsity": float(ticket.sparsity or 0),
                    "sequences": sample.sequences,
                    "baseline_loss": baseline.loss,
                    **bounds("baseline_loss", interval(sample.dense.resampled.loss, sample.sequences)),
                    "uniform_loss": uniform_loss(baseline.vocabulary),
                    "baseline_perplexity": baseline.perplexity,
                    "baseline_accuracy": baseline.accuracy,
                }
                | _against_dense(sample, evaluated)
            )
    return frame(rows, COLUMNS)


def _against_dense(sample: Sample, ticket: Evaluated) -> dict[str, float]:
    """Return the differences of a ticket from its dense model, with intervals."""
    dense = sample.dense
    compared = {"agreement": ticket.resampled.agreement, "kl": ticket.resampled.kl}
    return {
        **{
            key: bound
            for name, values in compared.items()
            if values is not None
            for key, bound in bounds(name, interval(values, sample.sequences)).items()
        },
        "loss_difference": ticket.metrics.loss - dense.metrics.loss,
        "accuracy_difference": ticket.metrics.accuracy - dense.metrics.accuracy,
        **{
            key: bound
            for name, statistic in (
                ("performance_retention", retention),
                ("loss_difference", loss_difference),
                ("accuracy_difference", accuracy_difference),
            )
            for key, bound in bounds(
                name, interval(statistic(ticket.resampled, dense.resampled), sample.sequences)
            ).items()
        },
    }


TABLE = Table(
    name="tickets",
    of="tickets",
    row="a ticket",
    columns=COLUMNS,
    key=tuple(TICKET),
    stage="tables",
    measured=lambda found: tickets_table(found.samples),
    title="What sparsity costs",
    figure="tradeoff",
    category="Tickets",
    captioned=True,
)
