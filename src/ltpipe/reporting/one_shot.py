"""The tables of a model's one-shot tickets, from the metrics of its evaluations."""

from dataclasses import dataclass
from pathlib import Path

from ltpipe.analysis.samples import samples
from ltpipe.evaluation.metrics import Metrics
from ltpipe.evaluation.simulated import Simulation
from ltpipe.pruning.solution import read_errors
from ltpipe.recovery.record import RecoveryRecord
from ltpipe.reporting.table import Measured, Table
from ltpipe.reporting.tables import (
    comparisons,
    costs,
    curves,
    reconstruction,
    recovery,
    robustness,
    simulations,
    task_comparisons,
    tasks,
    tickets,
)
from ltpipe.runtime.frames import Frame
from ltpipe.tasks.results import TaskResults

TABLES: tuple[Table, ...] = tuple(
    module.TABLE
    for module in (
        tickets,
        comparisons,
        curves,
        tasks,
        task_comparisons,
        recovery,
        reconstruction,
        robustness,
        simulations,
        costs,
    )
)
"""The tables that the stage `tables` writes for each model."""


@dataclass(frozen=True)
class Files:
    """Files with the measurements of a model and its tickets.

    Attributes:
        baselines: metrics of the dense model, on each text.
        tickets: metrics of its tickets.
        perturbed: metrics of the dense model and of tickets with perturbed weights.
        simulations: of iterative magnitude pruning.
        solutions: what solvers found.
        tasks: results of tasks of lm-evaluation-harness.
        recoveries: records of recoveries.
    """

    baselines: tuple[Path, ...]
    tickets: tuple[Path, ...]
    perturbed: tuple[Path, ...] = ()
    simulations: tuple[Path, ...] = ()
    solutions: tuple[Path, ...] = ()
    tasks: tuple[Path, ...] = ()
    recoveries: tuple[Path, ...] = ()


def one_shot_tables(files: Files) -> dict[str, Frame]:
    """Return all `TABLES` by their names, including empty ones.

    Raises:
        UserError: a file is missing or damaged, a ticket has no baseline, or there is no ticket.
    """
    dense = [Metrics.read(path) for path in files.baselines]
    evaluated = [Metrics.read(path) for path in files.tickets]
    found = Measured(
        dense,
        evaluated,
        samples(dense, evaluated),
        [Metrics.read(path) for path in files.perturbed],
        [Simulation.read(path) for path in files.simulations],
        [read_errors(path) for path in files.solutions],
        [TaskResults.read(path) for path in files.tasks],
        [RecoveryRecord.read(path) for path in files.recoveries],
    )
    return {table.name: table.measured(found) for table in TABLES if table.measured}
