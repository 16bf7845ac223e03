"""Trainings as figures: accuracy and speed against weights remaining, lines between children, early birds.

Each figure has one row a study.
"""

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from math import ceil
from textwrap import fill
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

from ltpipe.reporting.columns import percent
from ltpipe.reporting.figures import (
    BASELINE_COLOUR,
    COLOURS,
    LEGEND_COLUMNS,
    LEGEND_ROW,
    WINNING_COLOUR,
    lay_out,
    plain,
)
from ltpipe.reporting.trainings import label
from ltpipe.training.record import KINDS, TICKET

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
BAND = 0.15  # opacity
TICKS = 9
"""Neighbouring ticks of weights remaining are at least this part of the axis apart, so that their labels are."""
LEVEL_COLOURS = "viridis"
LIGHTEST = 0.85  # of that map: its yellow is faint on white


def levels_figure(levels: pd.DataFrame) -> Figure:
    """Test accuracy at early stop, and the early-stop iteration, against weights remaining.

    One line a branch kind, the mean over replicates, with a band of 95 % where there are several; the dense model's
    mean is a horizontal line with such a band.

    Args:
        levels: the levels table, at least one row.
    """
    styles = _styles(levels)
    dense = Line2D([], [], color=BASELINE_COLOUR, linestyle="--", linewidth=1, label="dense model")
    handles = [Line2D([], [], label=label(*key), **style) for key, style in styles.items()]
    with _figure(levels, 2, [*handles, dense]) as (figure, panels):
        for (study, rows), (accuracy, speed) in zip(levels.groupby("study"), panels, strict=True):
            _title(accuracy, study, *rows["replicates"])
            _draw_branches(accuracy, rows, "test_accuracy", styles, 100)
            accuracy.set_ylabel("test accuracy at early stop (%)")
            _draw_branches(speed, rows, "early_stop_iteration", styles, 1)
            speed.set_ylabel("early-stop iteration")
            speed.yaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:,.0f}"))
            for axes in (accuracy, speed):
                _weights_axis(axes, rows["weights_remaining"].tolist())
    return figure


def connectivity_figure(points: pd.DataFrame) -> Figure:
    """Error along the line between two children, one colour a level: thin lines are replicates, thick ones their mean.

    Args:
        points: the connectivity table, at least one row.
    """
    colours = _graded(points["level"])
    handles = [Line2D([], [], color=colour, linewidth=2, label=f"level {level}") for level, colour in colours.items()]
    with _figure(points, 1, handles) as (figure, panels):
        for (study, rows), (axes,) in zip(points.groupby("study"), panels, strict=True):
            for level, lines in rows.groupby("level"):
                for _, line in lines.groupby(["replicate", "first", "second"]):
                    axes.plot(line["alpha"], 100 * line["error"], color=colours[level], linewidth=0.7, alpha=0.5)
                mean = lines.groupby("alpha")["error"].mean()
                axes.plot(mean.index, 100 * mean, color=colours[level], linewidth=2)
            _title(axes, study, rows["replicate"].nunique())
            axes.set_xlabel("α, from the second training (0) to the first (1)")
            axes.set_ylabel("test error (%)")
            axes.set_ylim(bottom=0)
    return figure


def early_birds_figure(masks: pd.DataFrame) -> Figure:
    """The rule's value in the window by iteration, one colour a sparsity, one line a replicate; a star: converged.

    Args:
        masks: the early-bird table, at least one row.
    """
    colours = _graded(masks["sparsity"])
    handles = [
        *(Line2D([], [], color=colour, label=f"sparsity {percent(sparsity)}") for sparsity, colour in colours.items()),
        Line2D([], [], color=BASELINE_COLOUR, marker="*", markersize=10, linestyle="none", label="converged"),
        Line2D([], [], color=WINNING_COLOUR, linestyle="--", linewidth=1, label="threshold"),
    ]
    with _figure(masks, 1, handles) as (figure, panels):
        for (study, rows), (axes,) in zip(masks.groupby("study"), panels, strict=True):
            for (sparsity, _), line in rows.groupby(["sparsity", "replicate"]):
                axes.plot(line["iteration"], line["distance"], color=colours[sparsity], marker=".", linewidth=1)
                found = line[line["iteration"] == line["converged"]]
                axes.plot(found["iteration"], found["distance"], "*", color=colours[sparsity], markersize=12)
            for threshold in rows["threshold"].unique():
                axes.axhline(threshold, color=WINNING_COLOUR, linestyle="--", linewidth=1, zorder=1)
            rules = " or ".join(sorted(rows["rule"].unique()))
            _title(axes, study, rows["replicate"].nunique())
            axes.set_xlabel("iteration of the dense training")
            axes.set_xlim(0)
            axes.set_ylabel(
                f"{rules}{', chance-corrected' if rows['chance_corrected'].all() else ''}, worst in the window"
            )
    return figure


@contextmanager
def _figure(table: pd.DataFrame, columns: int, handles: Sequence[Line2D]) -> Iterator[tuple[Figure, np.ndarray]]:
    """A figure with a row of panels for each study of a table; laid out when all is drawn."""
    studies = table["study"].nunique()
    legend_rows = ceil(len(handles) / LEGEND_COLUMNS)
    # Names come from the user: a "$" in one is a dollar sign, not the start of a formula.
    with matplotlib.rc_context({"text.parse_math": False}):
        height = 3.5 * studies + 0.3 + LEGEND_ROW * legend_rows
        figure = Figure(figsize=(10, height), layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        panels = figure.subplots(studies, columns, squeeze=False)
        for axes in panels.flat:
            plain(axes)
        yield figure, panels
        figure.legend(
            handles=handles, loc="outside lower center", ncols=min(LEGEND_COLUMNS, len(handles)), frameon=False
        )
        lay_out(figure)


def _title(axes: Axes, study: str, *replicates: int) -> None:
    low, high = min(replicates), max(replicates)
    count = f"{high}" if low == high else f"{low} to {high}"
    title = f"{study}, {count} replicate{'s' if high > 1 else ''}"
    axes.set_title(fill(title, 60), loc="left", fontsize="medium", fontweight="bold")


def _branches(levels: pd.DataFrame) -> list[tuple[str, str | None]]:
    """Branch kinds and donors of the levels, in the order of the kinds."""
    found = {
        (branch, None if pd.isna(donor) else donor)
        for branch, donor in zip(levels["branch"], levels["donor"], strict=True)
    }
    return sorted(found, key=lambda key: (KINDS.index(key[0]), key[1] or ""))


def _styles(levels: pd.DataFrame) -> dict[tuple[str, str | None], dict[str, Any]]:
    """Line style of each branch: a kind has its colour and marker whatever else there is, donors have their dashes."""
    styles: dict[tuple[str, str | None], dict[str, Any]] = {}
    donors = [donor for _, donor in _branches(levels) if donor is not None]
    for kind, donor in _branches(levels):
        index = KINDS.index(kind)
        dashes = "-" if donor is None else (0, (1 + 2 * donors.index(donor), 1))
        styles[kind, donor] = {"color": COLOURS[index], "marker": MARKERS[index], "linestyle": dashes}
    return styles


def _draw_branches(
    axes: Axes, levels: pd.DataFrame, value: str, styles: dict[tuple[str, str | None], dict[str, Any]], scale: float
) -> None:
    """Draw a column of the levels table, times `scale`, against weights remaining, with bands."""
    dense = levels[(levels["level"] == 0) & (levels["branch"] == TICKET)]
    for _, row in dense.iterrows():
        axes.axhline(scale * row[value], color=BASELINE_COLOUR, linestyle="--", linewidth=1, zorder=1)
        if not pd.isna(row[f"{value}_low"]):
            low, high = scale * row[f"{value}_low"], scale * row[f"{value}_high"]
            axes.axhspan(low, high, color=BASELINE_COLOUR, alpha=BAND / 2, linewidth=0, zorder=0)
    for kind, donor in _branches(levels):
        alike = levels["branch"].eq(kind) & (levels["donor"].isna() if donor is None else levels["donor"].eq(donor))
        rows = levels[alike].sort_values("weights_remaining")
        style = styles[kind, donor]
        axes.plot(
            rows["weights_remaining"],
            scale * rows[value],
            markersize=5,
            markeredgecolor="white",
            markeredgewidth=0.7,
            **style,
        )
        low, high = scale * rows[f"{value}_low"], scale * rows[f"{value}_high"]
        axes.fill_between(rows["weights_remaining"], low, high, color=style["color"], alpha=BAND, linewidth=0)
        # A band has no width where a branch has one level, or its neighbours have no interval.
        axes.vlines(rows["weights_remaining"], low, high, color=style["color"], linewidth=1, alpha=2 * BAND)


def _weights_axis(axes: Axes, remaining: Sequence[float]) -> None:
    """A logarithmic axis of weights remaining, falling to the right as in the paper, with ticks at levels."""
    ticks: list[float] = []
    least = (max(remaining) / min(remaining)) ** (1 / TICKS)
    for weights in sorted(set(remaining), reverse=True):
        if not ticks or ticks[-1] / weights >= least:
            ticks.append(weights)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{round(100 * tick, 1):g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.invert_xaxis()
    axes.set_xlabel("weights remaining (%, log scale)")


def _graded(values: pd.Series) -> dict[Hashable, Any]:
    """A colour for each value, from dark to light."""
    distinct = sorted(values.unique())
    places = np.linspace(0, LIGHTEST, len(distinct))
    return dict(zip(distinct, matplotlib.colormaps[LEVEL_COLOURS](places), strict=True))
