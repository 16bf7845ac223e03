"""The report stage: tables, figures and page from the tables of models and the records of trainings."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from ltpipe.analysis.early_bird import EarlyBird
from ltpipe.analysis.overlap_tables import OVERLAP
from ltpipe.analysis.validation_table import VALIDATION
from ltpipe.evaluation.metrics import Metrics
from ltpipe.reporting.figures import save_figure, tradeoff_figure
from ltpipe.reporting.findings import findings_table
from ltpipe.reporting.one_shot import TABLES
from ltpipe.reporting.page import render_page
from ltpipe.reporting.sections import sections
from ltpipe.reporting.tables import gathered
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
from ltpipe.runtime.files import atomic_write
from ltpipe.runtime.frames import read_csv, read_parquet, write_csv, write_parquet
from ltpipe.runtime.provenance import provenance
from ltpipe.training.connectivity import Connectivity
from ltpipe.training.record import LearningRecord

CSV_ONLY = ("simulations", "overlap", "validation")
TRAINING_FIGURES: Mapping[str, Callable[[pd.DataFrame], Figure]] = {
    "levels": levels_figure,
    "connectivity": connectivity_figure,
    "early_birds": early_birds_figure,
}
"""Figures of the tables of the same names, made where the table has rows."""


@dataclass(frozen=True)
class Sources:
    """The files that a report is made from.

    Attributes:
        baselines: metrics of the dense models.
        tickets, comparisons, curves, robustness, simulations: those tables of the models' tickets.
        overlaps: overlap tables of the models' masks.
        validations: validation tables of the models' masks.
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
    overlaps: tuple[Path, ...] = ()
    validations: tuple[Path, ...] = ()
    records: tuple[Path, ...] = ()
    connectivities: tuple[Path, ...] = ()
    early_birds: tuple[Path, ...] = ()


def write_report(sources: Sources, folder: Path) -> None:
    """Write all tables as CSV, most as Parquet too, the figures as PNG and SVG, and `index.html`.

    Every table is written, empty where nothing was given for it; a figure only where its table has rows.

    Args:
        sources: what to report on: tickets with their dense models, or records of trainings, or both.
        folder: where to write.

    Raises:
        UserError: a file is missing or damaged, or there are neither tickets nor records.
    """
    if not sources.tickets and (sources.baselines or not sources.records):
        raise UserError("tickets: the table of at least one model's tickets is needed, or the record of a training")
    dense = [Metrics.read(path) for path in sources.baselines]
    records = [LearningRecord.read(path) for path in sources.records]
    one_shot, trained = _one_shot_tables(sources), _training_tables(sources, records)
    for name, table in (one_shot | trained).items():
        write_csv(table, folder / f"{name}.csv")
        if name not in CSV_ONLY:
            write_parquet(table, folder / f"{name}.parquet")
    tickets = one_shot.pop("tickets")
    tradeoff = _drawn(tradeoff_figure(tickets), folder / "tradeoff") if len(tickets) else ""
    svgs = {
        name: _drawn(draw(trained[name]), folder / name)
        for name, draw in TRAINING_FIGURES.items()
        if len(trained[name])
    }
    page = render_page(
        tickets,
        tradeoff,
        _provenance(dense, records),
        [*training_sections(trained, svgs), *sections(**one_shot)],
        studies=sorted({record.study for record in records}),
    )
    with atomic_write(folder / "index.html") as file:
        file.write(page.encode())


def _one_shot_tables(sources: Sources) -> dict[str, pd.DataFrame]:
    """Tables of one-shot tickets, by the names of their files."""
    return {
        **{
            name: gathered(
                getattr(sources, name), columns, partial(read_parquet, what=f"a table of {name}", stage="tables")
            )
            for name, columns in TABLES.items()
        },
        "overlap": gathered(sources.overlaps, OVERLAP, partial(read_csv, what="an overlap table", stage="overlap")),
        "validation": gathered(
            sources.validations, VALIDATION, partial(read_csv, what="a validation table", stage="validation")
        ),
    }


def _training_tables(sources: Sources, records: Sequence[LearningRecord]) -> dict[str, pd.DataFrame]:
    """Tables of studies, by the names of their files."""
    trainings = Trainings(records)
    lines = [Connectivity.read(path) for path in sources.connectivities]
    birds = [EarlyBird.read(path) for path in sources.early_birds]
    return {
        "findings": findings_table(trainings, lines),
        "trainings": trainings_table(trainings),
        "levels": levels_table(trainings),
        "connectivity": connectivity_table(lines),
        "early_birds": early_birds_table(birds),
    }


def _drawn(figure: Figure, stem: Path) -> str:
    """Write a figure as PNG and SVG; gives the SVG document."""
    svg = stem.with_name(f"{stem.name}.svg")
    save_figure(figure, stem.with_name(f"{stem.name}.png"), svg)
    return svg.read_text(encoding="utf-8")


def _provenance(dense: Sequence[Metrics], records: Sequence[LearningRecord]) -> dict[str, str]:
    """What the page says about its origin, as plain lines. Not when it was made: the same inputs give the same page."""
    here = provenance({}, {})
    packages = ", ".join(f"{name} {version}" for name, version in here["packages"].items() if version)
    lines = {
        "ltpipe": f"{here['ltpipe']}, commit {here['git_commit'] or 'unknown'}",
        "python": f"{here['python']}, {packages}",
        "machine": here["machine"],
    }
    for metrics in dense:
        for what, fingerprint in metrics.provenance["inputs"].items():
            lines[f"{what} of {metrics.model}, {metrics.data}"] = fingerprint
    for study in sorted({record.study for record in records}):
        alike = [set(record.inputs.items()) for record in records if record.study == study]
        lines |= {f"{what} of {study}": hashed for what, hashed in sorted(set.intersection(*alike))}
        lines[f"trainings of {study}"] = str(len(alike))
    return lines
