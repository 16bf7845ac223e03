"""The levels and findings of trainings, in a terminal."""

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ltpipe.reporting.cells import MISSING, percent
from ltpipe.reporting.trainings import is_dense, label

STYLES = {"yes": "green", "no": "red", "undecided": "yellow"}


def print_trainings(levels: pd.DataFrame, findings: pd.DataFrame) -> None:
    """Print a table of levels for each training, and all findings, on standard output."""
    console = Console()
    for training, rows in levels.groupby("training"):
        console.print(levels_summary(str(training), rows))
    for line in finding_lines(findings):
        console.print(line)


def levels_summary(training: str, levels: pd.DataFrame) -> Table:
    """Return a training's levels for a terminal of 80 characters: means, and ± half the width of 95 % intervals."""
    table = Table(
        # Text, not str: names come from the user and may look like rich's markup.
        title=Text(f"{training}, iterative magnitude pruning"),
        caption="weights remaining; n: replicates; test accuracy at early stop, and\n"
        "minus the dense model's in points, paired; ±: half a 95% interval",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    for heading in ("level", "weights", "branch", "n", "accuracy, %", "− dense", "early stop"):
        table.add_column(heading, justify="left" if heading == "branch" else "right", no_wrap=heading != "branch")
    level = None
    for row in levels.to_dict("records"):
        new, level = row["level"] != level, row["level"]
        cells = [
            str(level) if new else "",
            percent(row["weights_remaining"], 1) if new else "",
            "dense model" if is_dense(row) else label(row["branch"], row["donor"]),
            str(row["replicates"]),
            _with_half("test_accuracy", "{:.2f}", row, 100),
            _with_half("test_accuracy_minus_dense", "{:+.2f}", row, 100),
            _with_half("early_stop_iteration", "{:,.0f}", row),
        ]
        table.add_row(*map(Text, cells), style="dim" if is_dense(row) else "")
    return table


def finding_lines(findings: pd.DataFrame) -> Iterator[Text]:
    """Yield each finding, whether it holds, and its evidence."""
    for row in findings.to_dict("records"):
        holds = (row["holds"], STYLES.get(row["holds"], ""))
        yield Text.assemble("\n", holds, f": {row['training']}: {row['finding']}.\n  {row['evidence']}")


def _with_half(key: str, form: str, row: Mapping[str, Any], scale: float = 1) -> str:
    if pd.isna(row[key]):
        return MISSING
    value, half = scale * row[key], scale * (row[f"{key}_high"] - row[f"{key}_low"]) / 2
    shown = form.format(value)
    return shown if pd.isna(half) else f"{shown} ±{form.replace('+', '').format(half)}"
