"""How values are shown in tables, on the page and in a terminal."""

from collections.abc import Callable, Mapping
from typing import Any

from ltpipe.runtime.frames import is_missing

MISSING = "–"

Row = Mapping[str, Any]
Show = Callable[[Any], str]
"""Formats a present value."""
Cell = Callable[[Row], str]
"""Formats a cell of a row."""


def percent(value: float, decimals: int | None = None) -> str:
    """Show a fraction (0..1) in percent, with as many decimals as it has unless `decimals` says how many."""
    return f"{100 * value:.8g}%" if decimals is None else f"{100 * value:.{decimals}f}%"


def points(value: float) -> str:
    """Show a difference of fractions in percentage points."""
    return f"{100 * value:+.2f}"


def mebibytes(value: int) -> str:
    """Show a number of bytes in MiB."""
    return f"{value / 2**20:,.0f}"


def yes_or_no(value: bool) -> str:
    """Show a truth value."""
    return "yes" if value else "no"


def value(key: str, show: Show = str) -> Cell:
    """A value, or a dash if it is missing or empty."""
    return lambda row: MISSING if is_missing(row[key]) or row[key] == "" else show(row[key])


def with_interval(key: str, show: Show) -> Cell:
    """A value, with its interval if there is one."""

    def text(row: Row) -> str:
        if is_missing(row[key]):
            return MISSING
        low, high = row[f"{key}_low"], row[f"{key}_high"]
        return show(row[key]) + ("" if is_missing(low) else f" [{show(low)}, {show(high)}]")

    return text


def with_chance(key: str) -> Cell:
    """A value, and what it is by chance."""
    return lambda row: MISSING if is_missing(row[key]) else f"{row[key]:.4f} [{row[f'{key}_chance']:.4f}]"


def ticket_name(row: Row, side: str = "") -> str:
    """A ticket, or a curve of tickets, by its criterion, scope and seed; `side` ends the names of their columns."""
    seed = row[f"seed{side}"]
    seeds = [] if is_missing(seed) else [f"seed {seed}"]
    return ", ".join([row[f"criterion{side}"], row[f"scope{side}"], *seeds])


def mask_name(row: Row, side: str = "") -> str:
    """A mask by its criterion, scope, seed and sparsity; `side` as for `ticket_name`."""
    return f"{ticket_name(row, side)}, {percent(row[f'sparsity{side}'])}"
