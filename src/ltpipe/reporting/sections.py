"""Sections of the page: tables as text, beside their figures."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ltpipe.reporting.columns import MISSING, percent
from ltpipe.runtime.frames import Frame, is_missing

if TYPE_CHECKING:  # who makes tables draws none
    from ltpipe.reporting.charts import Figure

Row = Mapping[str, Any]

SHOWN = 1000
"""Rows of a table that the page has room for; its file has all of them."""


@dataclass(frozen=True)
class Section:
    """A table of the page, a figure, or both.

    Attributes:
        title: heading.
        note: what the numbers mean, in one paragraph.
        headings: of the columns.
        rows: cells, as they are shown.
        total: rows of the table; the page has room for the first `SHOWN`.
        file: stem of the table's files beside the page.
        figure: above the table.
        prose: whether cells hold sentences, which break into lines.
    """

    title: str
    note: str
    headings: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    total: int = 0
    file: str = ""
    figure: "Figure | None" = None
    prose: bool = False

    @property
    def anchor(self) -> str:
        """Where links to it lead."""
        return "-".join(self.title.lower().split())


def pictured(figure: "Figure | None", file: str) -> Section | None:
    """A section that is a figure alone, with the table of its numbers beside the page."""
    return Section(figure.title, "", figure=figure, file=file) if figure else None


def section(
    title: str,
    note: str,
    table: Frame,
    cells: Mapping[str, Callable[[Row], str]],
    *,
    file: str = "",
    prose: bool = False,
) -> Section:
    """A section whose table has a column for each of `cells`, of what it makes of a row; at most `SHOWN` rows."""
    rows: Sequence[Row] = table.head(SHOWN).to_dict("records")
    return Section(
        title,
        note,
        tuple(cells),
        tuple(tuple(show(row) for show in cells.values()) for row in rows),
        total=len(table),
        file=file,
        prose=prose,
    )


def as_it_is(key: str) -> Callable[[Row], str]:
    """A value as it is."""
    return lambda row: MISSING if is_missing(row[key]) or row[key] == "" else str(row[key])


def formatted(key: str, form: str, scale: float = 1) -> Callable[[Row], str]:
    """A value times `scale`."""
    return lambda row: MISSING if is_missing(row[key]) else form.format(scale * row[key] if scale != 1 else row[key])


def ticket_name(side: str = "", sparsity: bool = False) -> Callable[[Row], str]:
    """A ticket by its axes, with its sparsity if asked for; `side` ends the names of their columns."""

    def show(row: Row) -> str:
        seed = row[f"seed{side}"]
        parts = [row[f"criterion{side}"], row[f"scope{side}"], *([] if is_missing(seed) else [f"seed {seed}"])]
        return ", ".join([*parts, *([percent(row[f"sparsity{side}"])] if sparsity else [])])

    return show


def with_interval(key: str, form: str, scale: float = 1) -> Callable[[Row], str]:
    """A value times `scale`, with its interval where there is one."""

    def show(row: Row) -> str:
        if is_missing(row[key]):
            return MISSING
        value, low, high = (form.format(scale * row[f"{key}{bound}"]) for bound in ("", "_low", "_high"))
        return value if is_missing(row[f"{key}_low"]) else f"{value} [{low}, {high}]"

    return show


def with_chance(key: str) -> Callable[[Row], str]:
    """A value, and what it is by chance."""
    return lambda row: MISSING if is_missing(row[key]) else f"{row[key]:.4f} [{row[f'{key}_chance']:.4f}]"
