"""Sections of the page: tables as text, beside their figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ltpipe.reporting.cells import Cell, Row
from ltpipe.reporting.charts import Figure
from ltpipe.runtime.frames import Frame

TIGHT = 8
"""Columns that fit on the page without breaks in cells."""
SHOWN = 1000
"""Rows of a table that the page has room for; its file has all of them."""


@dataclass(frozen=True)
class Section:
    """A table of the page, a figure, or both.

    Attributes:
        title: heading.
        note: what the numbers mean, in one paragraph.
        headings: headings of the columns.
        rows: cells, as they are shown.
        total: rows of the table; the page has room for the first `SHOWN`.
        file: stem of the table's files beside the page.
        figure: above the table.
        prose: whether cells hold sentences, which wrap.
    """

    title: str
    note: str
    headings: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    total: int = 0
    file: str = ""
    figure: Figure | None = None
    prose: bool = False

    @property
    def anchor(self) -> str:
        """The target of links to it."""
        return "-".join(self.title.lower().split())

    @property
    def tight(self) -> bool:
        """Whether it has so many columns that they fit only if values break before their intervals."""
        return len(self.headings) > TIGHT


def section(
    title: str,
    note: str,
    table: Frame,
    cells: Mapping[str, Cell],
    file: str,
    figure: Figure | None = None,
    prose: bool = False,
) -> Section:
    """Make a section with a column for each of `cells` and at most `SHOWN` rows; without cells, it is a figure."""
    rows: Sequence[Row] = table.head(SHOWN).to_dict("records") if cells else []
    texts = tuple(tuple(show(row) for show in cells.values()) for row in rows)
    return Section(title, note, tuple(cells), texts, len(table) if cells else 0, file, figure, prose)
