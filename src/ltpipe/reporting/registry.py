"""All tables of the report, in the order of the page."""

from ltpipe.reporting.table import Table
from ltpipe.reporting.tables import (
    comparisons,
    connectivity,
    costs,
    curves,
    early_birds,
    findings,
    layers,
    levels,
    models,
    overlap,
    reconstruction,
    recovery,
    robustness,
    simulations,
    task_comparisons,
    tasks,
    tickets,
    trainings,
    validation,
)

TABLES: tuple[Table, ...] = tuple(
    module.TABLE
    for module in (
        findings,
        trainings,
        levels,
        connectivity,
        early_birds,
        tickets,
        curves,
        comparisons,
        models,
        tasks,
        task_comparisons,
        recovery,
        overlap,
        layers,
        validation,
        reconstruction,
        robustness,
        simulations,
        costs,
    )
)
