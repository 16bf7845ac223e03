"""The report stage: tables, figures and page from the tables of models and the records of trainings."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from ltpipe.analysis.early_bird import EarlyBird
from ltpipe.analysis.overlap_tables import OVERLAP
from ltpipe.analysis.validation_table import LAYERS, VALIDATION
from ltpipe.evaluation.metrics import Metrics
from ltpipe.reporting.charts import Figure, picture_files
from ltpipe.reporting.cost_figures import costs_figure
from ltpipe.reporting.costs import all_costs, training_costs
from ltpipe.reporting.figures import critical_figure, tradeoff_figure
from ltpipe.reporting.findings import findings_table
from ltpipe.reporting.mask_figures import layers_figure, overlap_figure
from ltpipe.reporting.one_shot import CELLS, TABLES
from ltpipe.reporting.origin import Origin, origin
from ltpipe.reporting.page import Content, render_page
from ltpipe.reporting.sections import costs_section, pictured, sections, shown
from ltpipe.reporting.study_verdicts import study_verdicts
from ltpipe.reporting.tables import CELL, gathered
from ltpipe.reporting.training_figures import connectivity_figure, early_birds_figure, levels_figure
from ltpipe.reporting.training_sections import training_sections
from ltpipe.reporting.trainings import (
    Trainings,
    connectivity_table,
    early_birds_table,
    levels_table,
    trainings_table,
)
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.files import atomic_write, remove
from ltpipe.runtime.frames import read_csv, read_parquet, write_csv, write_parquet
from ltpipe.training.connectivity import Connectivity
from ltpipe.training.record import LearningRecord

CSV_ONLY = ("simulations", "overlap", "validation")
ONE_SHOT = ("comparisons", "curves", "overlap", "validation", "robustness", "simulations")
PARQUET_ONLY = ("layers",)
FIGURES: dict[str, tuple[str, Callable[[pd.DataFrame], Figure | None]]] = {
    "tradeoff": ("tickets", tradeoff_figure),
    "critical": ("curves", critical_figure),
    "layers": ("layers", layers_figure),
    "overlap": ("overlap", overlap_figure),
    "levels": ("levels", levels_figure),
    "connectivity": ("connectivity", connectivity_figure),
    "early_birds": ("early_birds", early_birds_figure),
    "costs": ("costs", costs_figure),
}
"""Figures by name, each drawn from a table, where that has rows that can be drawn."""


@dataclass(frozen=True)
class Sources:
    """The files that a report is made from.

    Attributes:
        baselines: metrics of the dense models.
        tickets, comparisons, curves, robustness, simulations, costs: those tables of the models' tickets.
        overlaps: overlap tables of the models' masks.
        validations: validation tables of the models' masks.
        layers: what each tensor of these masks keeps.
        records: learning records of trainings.
        connectivities: of lines between trainings.
        early_birds: of detections while dense models trained.
    """

    baselines: tuple[Path, ...] = ()
    tickets: tuple[Path, ...] = ()
    comparisons: tuple[Path, ...] = ()
    curves: tuple[Path, ...] = ()
    robustness: tuple[Path, ...] = ()
    simulations: tuple[Path, ...] = ()
    costs: tuple[Path, ...] = ()
    overlaps: tuple[Path, ...] = ()
    validations: tuple[Path, ...] = ()
    layers: tuple[Path, ...] = ()
    records: tuple[Path, ...] = ()
    connectivities: tuple[Path, ...] = ()
    early_birds: tuple[Path, ...] = ()


def write_report(sources: Sources, folder: Path, config: str = "") -> int:
    """Write all tables as CSV, most as Parquet too, the figures as PNG and SVG, and `index.html`.

    Every table is written, empty where nothing was given for it; a figure only where there is something to draw.

    Args:
        sources: what to report on: tickets with their dense models, or records of trainings, or both.
        folder: where to write.
        config: the study as YAML, written too if given.

    Returns:
        The number of tickets.

    Raises:
        UserError: a file is missing or damaged, or there are neither tickets nor records.
    """
    if not sources.tickets and (sources.baselines or not sources.records):
        raise UserError("tickets: the table of at least one model's tickets is needed, or the record of a training")
    dense = [Metrics.read(path) for path in sources.baselines]
    records = [LearningRecord.read(path) for path in sources.records]
    trainings = Trainings(records)
    one_shot, trained = _one_shot_tables(sources), _training_tables(sources, trainings)
    one_shot["costs"] = all_costs(one_shot["costs"], training_costs(records))
    tables = one_shot | trained
    for name, table in tables.items():
        if name not in PARQUET_ONLY:
            write_csv(table, folder / f"{name}.csv")
        if name not in CSV_ONLY:
            write_parquet(table, folder / f"{name}.parquet")
    content = page_content(tables, origin(dense, records, config), trainings)
    for figure in content.figures:
        figure.save(folder)
    for name in FIGURES.keys() - {figure.name for figure in content.figures}:
        for left in picture_files(folder, name):  # of the study that the folder reported on before
            remove(left)
    if config:
        with atomic_write(folder / "config.yaml") as file:
            file.write(config.encode())
    with atomic_write(folder / "index.html") as file:
        file.write(render_page(content).encode())
    return len(content.tickets)


def page_content(tables: Mapping[str, pd.DataFrame], source: Origin, trainings: Trainings) -> Content:
    """What the page says of tables: findings of studies and the trade-off of tickets first.

    Args:
        tables: all tables, by the names of their files.
        source: where they come from.
        trainings: of the studies that are trained.
    """
    drawn = {name: draw(tables[table]) for name, (table, draw) in FIGURES.items() if len(tables[table])}
    figures = {name: figure for name, figure in drawn.items() if figure}
    one_shot = {name: tables[name] for name in ONE_SHOT}
    return Content(
        tickets=tables["tickets"],
        curves=tables["curves"],
        comparisons=tables["comparisons"],
        leading=shown([*training_sections(tables, figures), pictured(figures.get("tradeoff"), "tickets")]),
        sections=shown([*sections(**one_shot, figures=figures), costs_section(tables["costs"], figures.get("costs"))]),
        origin=source,
        studies=trainings.studies,
        study_verdicts=study_verdicts(trainings),
    )


def _one_shot_tables(sources: Sources) -> dict[str, pd.DataFrame]:
    """Tables of one-shot tickets, by the names of their files."""
    return {
        **{
            name: gathered(
                getattr(sources, name),
                columns,
                partial(read_parquet, what=f"a table of {name}", stage="tables"),
                CELLS.get(name, ()),
            )
            for name, columns in TABLES.items()
        },
        "overlap": gathered(sources.overlaps, OVERLAP, partial(read_csv, what="an overlap table", stage="overlap")),
        "validation": gathered(
            sources.validations,
            VALIDATION,
            partial(read_csv, what="a validation table", stage="validation"),
            ("model", *CELL[2:]),
        ),
        "layers": gathered(sources.layers, LAYERS, partial(read_parquet, what="a layers table", stage="validation")),
    }


def _training_tables(sources: Sources, trainings: Trainings) -> dict[str, pd.DataFrame]:
    """Tables of studies, by the names of their files."""
    lines = [Connectivity.read(path) for path in sources.connectivities]
    birds = [EarlyBird.read(path) for path in sources.early_birds]
    return {
        "findings": findings_table(trainings, lines),
        "trainings": trainings_table(trainings),
        "levels": levels_table(trainings),
        "connectivity": connectivity_table(lines),
        "early_birds": early_birds_table(birds),
    }
