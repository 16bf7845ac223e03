"""An artefact's description, before it is printed."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True)
class Listing:
    """A table in an artefact's description: a value or None for each column of each row."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    @classmethod
    def of(cls, title: str, rows: Iterable[Mapping[str, Any]]) -> "Listing":
        """Make a listing from rows that all have the same keys."""
        listed = list(rows)
        return cls(title, tuple(listed[0]) if listed else (), tuple(tuple(row.values()) for row in listed))


@dataclass(frozen=True)
class Description:
    """An artefact's kind, its facts by name, and its tables."""

    path: str
    kind: str
    facts: Mapping[str, Any]
    listings: tuple[Listing, ...] = ()

    def as_json(self) -> str:
        """Return the description for programs: one JSON object, with rows as objects."""
        tables = {
            listing.title: [dict(zip(listing.columns, row, strict=True)) for row in listing.rows]
            for listing in self.listings
        }
        content = {"path": self.path, "kind": self.kind, "facts": dict(self.facts), "tables": tables}
        return json.dumps(content, indent=1, ensure_ascii=False)

    def show(self) -> None:
        """Print the description for people on standard output."""
        console = Console()
        console.print(Text(f"{self.path}: {self.kind}"), soft_wrap=True)
        width = max(map(len, self.facts), default=0)
        for name, value in self.facts.items():
            console.print(Text(f"  {name:<{width}}  {shown(value)}"), soft_wrap=True)
        for listing in self.listings:
            table = _table(listing)
            # At full width: a narrow terminal wraps lines, but no digit or name is truncated.
            unlimited = console.options.update(width=10_000)
            console.width = max(console.width, console.measure(table, options=unlimited).maximum)
            console.print()
            console.print(table)


def describe_file(path: Path, kind: str, facts: Mapping[str, Any], *listings: Listing) -> Description:
    """Return a description without its empty listings."""
    return Description(str(path), kind, facts, tuple(listing for listing in listings if listing.rows))


def shown(value: Any) -> str:
    """Format a value for people."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value)) or "–"
    return str(value)


def _table(listing: Listing) -> Table:
    table = Table(title=Text(listing.title), title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)
    for index, column in enumerate(listing.columns):
        numeric = all(isinstance(row[index], int | float | None) for row in listing.rows)
        table.add_column(column, justify="right" if numeric else "left", no_wrap=numeric, overflow="fold")
    for row in listing.rows:
        # Text, not str: rich would read markup in names.
        table.add_row(*(Text(shown(value)) for value in row))
    return table
