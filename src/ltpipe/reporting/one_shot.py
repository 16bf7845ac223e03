"""The tables of a model's one-shot tickets, from the metrics of its evaluations."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ltpipe.analysis.samples import samples
from ltpipe.evaluation.metrics import Metrics
from ltpipe.evaluation.simulated import Simulation
from ltpipe.reporting import costs, robustness, simulations, tables

TABLES: Mapping[str, dict[str, str]] = {
    "tickets": tables.COLUMNS,
    "comparisons": tables.COMPARISONS,
    "curves": tables.CURVES,
    "robustness": robustness.COLUMNS,
    "simulations": simulations.COLUMNS,
    "costs": costs.COLUMNS,
}
"""Columns of each table, by its name."""

CELLS: Mapping[str, tuple[str, ...]] = {
    "tickets": tables.CELL,
    "comparisons": ("model", "data", "sparsity", *(f"{axis}_{side}" for side in "ab" for axis in tables.CELL[2:5])),
    "curves": tables.CELL[:5],
    "robustness": ("perturbation", "perturbation_seed", *tables.CELL),
    "simulations": ("model", "data", "iteration"),
}
"""What rows of these tables are told apart by."""


@dataclass(frozen=True)
class Measured:
    """The files that say what was measured of a model and its tickets.

    Attributes:
        baselines: metrics of the dense model, on each text.
        tickets: metrics of its tickets.
        perturbed: metrics of the dense model and of tickets with perturbed weights.
        simulations: of iterative magnitude pruning.
    """

    baselines: tuple[Path, ...]
    tickets: tuple[Path, ...]
    perturbed: tuple[Path, ...] = ()
    simulations: tuple[Path, ...] = ()


def one_shot_tables(measured: Measured) -> dict[str, pd.DataFrame]:
    """All tables of `TABLES`, those without rows too.

    Raises:
        UserError: a file is missing or damaged, a ticket has no baseline, or there is no ticket.
    """
    dense = [Metrics.read(path) for path in measured.baselines]
    evaluated = [Metrics.read(path) for path in measured.tickets]
    found = samples(dense, evaluated)
    perturbed = [Metrics.read(path) for path in measured.perturbed]
    return {
        "tickets": tables.tickets_table(found),
        "comparisons": tables.comparisons_table(found),
        "curves": tables.curves_table(found),
        "robustness": robustness.robustness_table(dense, evaluated, perturbed),
        "simulations": simulations.simulations_table([Simulation.read(path) for path in measured.simulations]),
        "costs": costs.evaluation_costs(dense, evaluated, perturbed),
    }
