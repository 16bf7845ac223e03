"""What stages took of time and memory, as a tidy table."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median

import pandas as pd

from ltpipe.evaluation.metrics import Metrics
from ltpipe.runtime.frames import frame
from ltpipe.training.record import LearningRecord

COLUMNS: dict[str, str] = {
    "stage": "string",
    "model": "string",
    "data": "string",
    "runs": "Int64",
    "seconds": "float64",
    "median_seconds": "float64",
    "longest_seconds": "float64",
    "planned_bytes": "Int64",
    "measured_bytes": "Int64",
    "device": "string",
}
"""Columns of the costs table, one row a stage with the model and text, or the study, that it ran for.

Seconds are wall time without start-up: all runs together, the median run and the longest. Bytes are the largest of all
runs, planned and measured. Stages whose artefacts say nothing of it have no row.
"""


STAGES = ("dense evaluation", "ticket evaluation", "evaluation of changed weights", "training")
"""Whose artefacts say what they took."""


@dataclass(frozen=True)
class _Run:
    stage: str
    model: str
    data: str | None
    seconds: float
    planned: int | None = None
    measured: int | None = None
    device: str | None = None


def evaluation_costs(
    baselines: Iterable[Metrics], tickets: Iterable[Metrics], perturbed: Iterable[Metrics]
) -> pd.DataFrame:
    """One row a kind of evaluation, model and text, in the order of `STAGES`."""
    found = zip(STAGES, (baselines, tickets, perturbed), strict=False)
    return _table(_evaluated(stage, metrics) for stage, evaluated in found for metrics in evaluated)


def training_costs(records: Iterable[LearningRecord]) -> pd.DataFrame:
    """One row a study."""
    return _table(_Run(STAGES[-1], record.study, None, record.seconds) for record in records)


def all_costs(evaluations: pd.DataFrame, trainings: pd.DataFrame) -> pd.DataFrame:
    """Both together, in the order of `STAGES`, whatever that of the models was."""
    table = pd.concat([found for found in (evaluations, trainings) if len(found)] or [evaluations])
    return table.sort_values("stage", key=lambda stages: stages.map(STAGES.index), kind="stable", ignore_index=True)


def _table(runs: Iterable[_Run]) -> pd.DataFrame:
    def cell(run: _Run) -> tuple[int, str, str]:
        return STAGES.index(run.stage), run.model, run.data or ""

    return frame([_row(list(alike)) for _, alike in groupby(sorted(runs, key=cell), key=cell)], COLUMNS)


def _evaluated(stage: str, found: Metrics) -> _Run:
    return _Run(stage, found.model, found.data, found.seconds, found.planned_bytes, found.measured_bytes, found.device)


def _row(runs: Sequence[_Run]) -> dict[str, object]:
    seconds = [run.seconds for run in runs]
    return {
        "stage": runs[0].stage,
        "model": runs[0].model,
        "data": runs[0].data,
        "runs": len(runs),
        "seconds": sum(seconds),
        "median_seconds": median(seconds),
        "longest_seconds": max(seconds),
        "planned_bytes": max(_known(run.planned for run in runs), default=None),
        "measured_bytes": max(_known(run.measured for run in runs), default=None),
        "device": " or ".join(sorted({run.device for run in runs if run.device})) or None,
    }


def _known(values: Iterable[int | None]) -> Iterator[int]:
    return (value for value in values if value is not None)
