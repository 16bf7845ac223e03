"""The tickets of several finished studies on one page and in one table, whose column `study` names the study."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from ltpipe.reporting.cells import percent, ticket_name, value
from ltpipe.reporting.figures import tradeoff_figure
from ltpipe.reporting.folder import ReportFolder, write_folder
from ltpipe.reporting.page import Content
from ltpipe.reporting.provenance import Provenance, report_provenance
from ltpipe.reporting.report import page_files, table_files
from ltpipe.reporting.sections import Section, section
from ltpipe.reporting.table import Table
from ltpipe.reporting.tables import comparisons, curves, tickets
from ltpipe.reporting.tables.axes import TICKET
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.files import atomic_folder, sha256_of
from ltpipe.runtime.frames import Columns, dtypes, word
from ltpipe.runtime.sums import FOLDER

REPORT = Path("results/report")
"""The report of a study, in the folder in which it ran."""

_STUDY: Columns = {"study": word("folder name of the study")}
TABLE = Table(
    name="tickets",
    of="tickets of several studies",
    row="a ticket of a study",
    columns={**_STUDY, **tickets.COLUMNS},
    key=("study", *TICKET),
)


def write_side_by_side(folders: Sequence[Path], output: Path) -> int:
    """Write one table (CSV, Parquet), the page with its figure, and their checksums.

    Args:
        folders: in which studies ran, or of their reports: at least two.
        output: a new folder, or an empty one.

    Returns:
        The number of tickets.

    Raises:
        UserError: a folder has no report, or one without tickets; one is given twice; `output` is there.
        DamagedFileError: a report is damaged, or of another version.
    """
    if len(folders) < 2:
        raise UserError("folders: only one study; name at least two, results/report has the page of one")
    reports = [ReportFolder(folder / REPORT if (folder / REPORT / FOLDER).exists() else folder) for folder in folders]
    studies = dict(zip(names([report.path for report in reports]), reports, strict=True))
    content = _content(studies)
    with atomic_folder(output) as folder:
        write_folder(folder, table_files(TABLE, content.tickets) | page_files(content))
    return len(content.tickets)


def names(reports: Sequence[Path]) -> list[str]:
    """Return a name for each report: its study's folder, with as many parent folders as make names unique."""
    places = [[part for part in path.resolve().parts if part not in REPORT.parts] or ["/"] for path in reports]
    for place, path in zip(places, reports, strict=True):
        if places.count(place) > 1:
            raise UserError(f"{path}: appears twice; name each study once")
    for depth in range(1, max(map(len, places)) + 1):
        found = ["/".join(place[-depth:]) for place in places]
        if len(set(found)) == len(found):
            return found
    return [str(path) for path in reports]


def _content(studies: Mapping[str, ReportFolder]) -> Content:
    """Return the page's content: a verdict per study, all tickets in one figure and one table, and their losses."""
    rows = {table.name: _rows(table, studies) for table in (tickets.TABLE, curves.TABLE, comparisons.TABLE)}
    every = rows["tickets"].astype(dtypes(TABLE.columns))
    drawn = tradeoff_figure(every.assign(scope=every["scope"] + ", " + every["study"]))
    leading = [Section(tickets.TABLE.title, "", figure=drawn, file="tickets"), *_losses(every)]
    return Content(every, rows["curves"], rows["comparisons"], leading, [], _provenance(studies))


def _rows(table: Table, studies: Mapping[str, ReportFolder]) -> pd.DataFrame:
    """Return a table's rows of all studies."""
    parts = []
    for study, report in studies.items():
        part = report.table(table)
        if table is tickets.TABLE and part.empty:
            raise UserError(f"{report.path}: the report has no tickets; name studies that have a grid")
        part.insert(0, "study", study)
        parts.append(part)
    return pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)


def _losses(every: pd.DataFrame) -> list[Section]:
    """Return a section of tickets that several studies share, with a column of losses for each study."""
    studies = list(every["study"].unique())
    losses = every.assign(seed=every["seed"].fillna(-1)).pivot(index=list(TICKET), columns="study", values="loss")
    shared = losses[losses.notna().sum(axis=1) > 1].reset_index()
    if shared.empty:
        return []
    shared["seed"] = shared["seed"].replace(-1, pd.NA)
    note = (
        "Losses in nats/token of the tickets that several of the studies have. The studies were measured separately: "
        "nothing here shows whether two losses differ significantly."
    )
    cells = {
        "model": value("model"),
        "text": value("data"),
        "ticket": ticket_name,
        "sparsity": value("sparsity", percent),
        **{study: value(f"loss of {study}", "{:.4f}".format) for study in studies},
    }
    renamed = shared.rename(columns={study: f"loss of {study}" for study in studies})
    return [section("Study by study", note, renamed, cells, "tickets")]


def _provenance(studies: Mapping[str, ReportFolder]) -> Provenance:
    """Return the provenance: this code and the checksums of the reports."""
    here = report_provenance([], [])
    sums = {f"{FOLDER} of {study}": sha256_of(report.sums.path) for study, report in studies.items()}
    return Provenance(here.commit, here.changed, "", {**here.lines, **sums})
