"""The report stage: tables, figures and page from the tables of models and the records of trainings."""

from collections import ChainMap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ltpipe.analysis.early_bird import EarlyBird
from ltpipe.evaluation.metrics import Metrics
from ltpipe.reporting.charts import Figure
from ltpipe.reporting.cost_figures import costs_figure
from ltpipe.reporting.figures import critical_figure, tradeoff_figure
from ltpipe.reporting.folder import CONFIG, PAGE, PICTURES, write_folder
from ltpipe.reporting.mask_figures import layers_figure, overlap_figure, reconstruction_figure
from ltpipe.reporting.model_figures import models_figure
from ltpipe.reporting.page import Content, render_page
from ltpipe.reporting.provenance import Provenance, report_provenance
from ltpipe.reporting.recognise import read_tables
from ltpipe.reporting.recovery_figures import recovery_figure
from ltpipe.reporting.registry import TABLES
from ltpipe.reporting.sections import section
from ltpipe.reporting.table import Table
from ltpipe.reporting.task_figures import tasks_figure
from ltpipe.reporting.training_figures import connectivity_figure, early_birds_figure, levels_figure
from ltpipe.reporting.training_verdicts import training_verdicts
from ltpipe.reporting.trainings import Trained, Trainings
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.frames import csv_bytes, parquet_bytes
from ltpipe.training.connectivity import Connectivity
from ltpipe.training.record import LearningRecord

FIGURES: dict[str, Callable[[pd.DataFrame], Figure | None]] = {
    "tradeoff": tradeoff_figure,
    "critical": critical_figure,
    "models": models_figure,
    "tasks": tasks_figure,
    "recovery": recovery_figure,
    "layers": layers_figure,
    "reconstruction": reconstruction_figure,
    "overlap": overlap_figure,
    "levels": levels_figure,
    "connectivity": connectivity_figure,
    "early_birds": early_birds_figure,
    "costs": costs_figure,
}
"""Figures by the names in table declarations; a figure needs a table with rows, and may be None even then."""


@dataclass(frozen=True)
class Sources:
    """The files that a report is made from.

    Attributes:
        baselines: metrics of the dense models.
        tables: tables of the models' tickets and masks, from the stages `tables`, `overlap` and `validation`.
        records: learning records of trainings.
        connectivities: of lines between trainings.
        early_birds: early-bird detections during trainings of dense models.
    """

    baselines: tuple[Path, ...] = ()
    tables: tuple[Path, ...] = ()
    records: tuple[Path, ...] = ()
    connectivities: tuple[Path, ...] = ()
    early_birds: tuple[Path, ...] = ()


def write_report(sources: Sources, folder: Path, config: str = "") -> int:
    """Write all tables with their figures, `index.html`, and the checksums of all files.

    Args:
        sources: files to report on: tickets with their dense models, records of trainings, or both.
        folder: where to write.
        config: the study as YAML; written too if given.

    Returns:
        The number of tickets.

    Raises:
        UserError: a file is missing or damaged, or there are neither tickets nor records.
    """
    dense = [Metrics.read(path) for path in sources.baselines]
    records = [LearningRecord.read(path) for path in sources.records]
    lines, birds = map(Connectivity.read, sources.connectivities), map(EarlyBird.read, sources.early_birds)
    trained = Trained(Trainings(records), tuple(lines), tuple(birds))
    tables = _tables(sources, trained)
    if "tickets" not in tables and (dense or not records):
        raise UserError("tables: no table of tickets; give that of at least one model, or the record of a training")
    content = page_content(tables, report_provenance(dense, records, config), trained.trainings)
    files = [table_files(table, tables[table.name]) for table in TABLES if table.name in tables]
    files += [{CONFIG: config.encode()} if config else {}, page_files(content)]
    write_folder(folder, dict(ChainMap(*files)))
    return len(content.tickets)


def page_content(tables: Mapping[str, pd.DataFrame], provenance: Provenance, trainings: Trainings) -> Content:
    """Return the content of the page: findings of trainings and the trade-off of tickets come first.

    Args:
        tables: the available tables, by their names.
        provenance: where they come from.
        trainings: what was trained.
    """
    found = {table.name: tables.get(table.name, table.empty) for table in TABLES}
    sections = {}
    for table in TABLES:
        rows = found[table.name]
        figure = FIGURES[table.figure](rows) if table.figure and len(rows) else None
        once = rows.drop_duplicates(list(table.once)) if table.once else rows
        made = section(table.title, table.note, once, table.cells, table.name, figure, table.prose)
        if made.rows or made.figure:
            sections[table.name] = made
    first_half = list(found)[: list(found).index("tickets") + 1]
    return Content(
        tickets=found["tickets"],
        curves=found["curves"],
        comparisons=found["comparisons"],
        leading=[made for name, made in sections.items() if name in first_half],
        sections=[made for name, made in sections.items() if name not in first_half],
        provenance=provenance,
        trainings=trainings.names,
        training_verdicts=training_verdicts(trainings),
    )


def _tables(sources: Sources, trained: Trained) -> dict[str, pd.DataFrame]:
    """Return the tables for which there is data, by their names."""
    given = read_tables(sources.tables)
    tables = {}
    for table in TABLES:
        parts = given.get(table.name, [])
        if table.trained and table.needs in trained.gives:
            parts = [*parts, ("trainings", table.trained(trained))]
        if parts:
            tables[table.name] = table.joined(parts)
    if "tickets" in tables and tables["tickets"]["model"].nunique() > 1:
        tables |= {table.name: table.derived(tables) for table in TABLES if table.derived}
    return tables


def table_files(table: Table, rows: pd.DataFrame) -> dict[str, bytes]:
    """Return the files of a table, by their names."""
    write = {".csv": csv_bytes, ".parquet": parquet_bytes}
    return {f"{table.name}{suffix}": write[suffix](rows) for suffix in table.suffixes}


def page_files(content: Content) -> dict[str, bytes]:
    """Return the page and its figures, by the names of their files."""
    draw: dict[str, Callable[[Figure], bytes]] = {
        ".svg": lambda figure: figure.svg.encode(),
        ".png": lambda figure: figure.png,
    }
    pictures = {f"{figure.name}{suffix}": draw[suffix](figure) for figure in content.figures for suffix in PICTURES}
    return pictures | {PAGE: render_page(content).encode()}
