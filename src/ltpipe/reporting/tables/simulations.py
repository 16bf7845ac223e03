"""Simulations of iterative pruning as a table: one row an iteration."""

from collections.abc import Sequence
from dataclasses import asdict

import pandas as pd

from ltpipe.evaluation.simulated import Simulation
from ltpipe.runtime.frames import frame

COLUMNS: dict[str, str] = {
    "model": "string",
    "data": "string",
    "iteration": "Int64",
    "sparsity": "float64",
    "kept": "Int64",
    "total": "Int64",
    "loss": "float64",
    "accuracy": "float64",
    "performance_retention": "float64",
    "winning": "boolean",
    "best": "boolean",
    "baseline_loss": "float64",
    "baseline_sequences": "Int64",
    "ticket_sequences": "Int64",
    "peak_host_private_bytes": "Int64",
    "peak_device_bytes": "Int64",
}
"""Columns and their dtypes. Losses are nats per token; the baseline's is of more sequences than the tickets'."""


def simulations_table(simulations: Sequence[Simulation]) -> pd.DataFrame:
    """One row an iteration, in the order of the simulations."""
    rows = [
        asdict(found) | asdict(entry) | {"best": entry.iteration == found.best}
        for found in simulations
        for entry in found.iterations
    ]
    return frame(rows, COLUMNS)
