"""Time and memory of stages, as a tidy table."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ltpipe.evaluation.metrics import Metrics
from ltpipe.reporting.cells import mebibytes, value
from ltpipe.reporting.table import Table
from ltpipe.runtime.frames import Columns, Frame, count, frame, number, word
from ltpipe.training.record import LearningRecord

COLUMNS: Columns = {
    "stage": word("kind of run; stages whose artefacts do not record their time have no row"),
    "model": word("name of the model, or of the training"),
    "data": word("name of the text"),
    "runs": count("number of runs"),
    "seconds": number("total wall time of all runs, without start-up"),
    "median_seconds": number("wall time of the median run"),
    "longest_seconds": number("wall time of the longest run"),
    "planned_bytes": count("largest planned peak of any run"),
    "measured_bytes": count("largest measured peak of any run"),
    "device": word("device that they ran on"),
}

STAGES = ("dense evaluation", "ticket evaluation", "evaluation of changed weights", "training")
"""Stages whose artefacts record time and memory."""


def evaluation_costs(baselines: Iterable[Metrics], tickets: Iterable[Metrics], perturbed: Iterable[Metrics]) -> Frame:
    """Return one row per kind of evaluation, model and text, in the order of `STAGES`."""
    found = zip(STAGES, (baselines, tickets, perturbed), strict=False)
    return _table([{**vars(metrics), "stage": stage} for stage, evaluated in found for metrics in evaluated])


def training_costs(records: Iterable[LearningRecord]) -> Frame:
    """Return one row per training."""
    return _table([{"stage": STAGES[-1], "model": record.training, "seconds": record.seconds} for record in records])


def arranged(costs: Frame) -> Frame:
    """Sort rows in the order of `STAGES`, whatever the order of the models was."""
    return costs.sort_values("stage", key=lambda stages: stages.map(STAGES.index), kind="stable", ignore_index=True)


def _table(runs: Sequence[Mapping[str, Any]]) -> Frame:
    """Runs of one stage, model and text in a row."""
    alike = frame(runs, COLUMNS).groupby(["stage", "model", "data"], dropna=False)
    costs = alike.agg(
        runs=("seconds", "size"),
        seconds=("seconds", lambda seconds: sum(seconds.tolist())),
        median_seconds=("seconds", "median"),
        longest_seconds=("seconds", "max"),
        planned_bytes=("planned_bytes", "max"),
        measured_bytes=("measured_bytes", "max"),
        device=("device", lambda devices: " or ".join(sorted(devices.dropna().unique())) or None),
    )
    return arranged(frame(costs.reset_index().to_dict("records"), COLUMNS))


TABLE = Table(
    name="costs",
    of="time and memory",
    row="a stage with the model and text, or the training, that it ran for",
    columns=COLUMNS,
    needs="anything",
    stage="tables",
    measured=lambda found: evaluation_costs(found.dense, found.tickets, found.perturbed),
    trained=lambda found: training_costs(found.trainings.records),
    arranged=arranged,
    title="Time and memory",
    note="Wall time without start-up. Memory is the largest peak of all runs: tensors on the accelerator, or on the "
    "CPU the growth of private memory, which includes what allocator and libraries add to the planned tensors. "
    "Only evaluations and trainings record time and memory in their artefacts; other stages log them.",
    cells={
        "stage": value("stage"),
        "model or training": value("model"),
        "text": value("data"),
        "runs": value("runs", "{:,}".format),
        "all runs, s": value("seconds", "{:,.1f}".format),
        "median run, s": value("median_seconds", "{:,.1f}".format),
        "longest run, s": value("longest_seconds", "{:,.1f}".format),
        "planned, MiB": value("planned_bytes", mebibytes),
        "measured, MiB": value("measured_bytes", mebibytes),
        "device": value("device"),
    },
    figure="costs",
    category="Time and memory",
    captioned=True,
)
