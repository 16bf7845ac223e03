"""The trade-off of sparsity against loss and retention, as a figure."""

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from textwrap import fill

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from ltpipe.evaluation.quality import WINNING_RETENTION
from ltpipe.reporting.columns import percent
from ltpipe.runtime.files import atomic_write

# Okabe and Ito's colour-blind-safe palette without its yellow (faint on white) and black (the baseline's), then wine,
# olive and indigo of Paul Tol's.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#882255", "#999933", "#332288")
FIRST_CRITERIA = ("magnitude", "random")  # keep their colours whatever else is in the report
# No plain dashes: those are the baseline's.
SCOPE_STYLES = (("o", "-"), ("s", ":"), ("^", "-."), ("D", (0, (6, 1, 1, 1, 1, 1))))
FIRST_SCOPES = ("global", "layer")
BASELINE_COLOUR = "#222222"
WINNING_COLOUR = "#666666"
LOG_SCALE_RATIO = 4.0
PANELS = 20  # rows of a figure; a PNG of two hundred would be higher than any program draws
LEGEND_COLUMNS, LEGEND_ROW = 3, 0.22  # inches a row

Style = dict[str, object]
# None drops an entry; what is left holds no date and no version, so that equal data gives equal bytes.
METADATA: dict[str, dict[str, None]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
}


def _first(names: Sequence[str], first: Sequence[str]) -> list[str]:
    return [*first, *sorted(set(names) - set(first))]


def _styles(tickets: pd.DataFrame) -> dict[tuple[str, str], Style]:
    """Line style of each (criterion, scope): colour by criterion, marker and dashes by scope."""
    criteria = _first(tickets["criterion"], FIRST_CRITERIA)
    scopes = _first(tickets["scope"], FIRST_SCOPES)
    styles: dict[tuple[str, str], Style] = {}
    for criterion, scope in sorted(set(zip(tickets["criterion"], tickets["scope"], strict=True))):
        marker, dashes = SCOPE_STYLES[scopes.index(scope) % len(SCOPE_STYLES)]
        colour = COLOURS[criteria.index(criterion) % len(COLOURS)]
        styles[criterion, scope] = {"color": colour, "marker": marker, "linestyle": dashes}
    return styles


def _label(criterion: str, scope: str, rows: pd.DataFrame) -> str:
    """Legend label of a line; with how many seeds each of its means has, if the criterion has seeds."""
    seeds = rows.groupby(["model", "data", "sparsity"])["seed"].nunique()
    low, high = seeds.min(), seeds.max()
    if high == 0:
        return f"{criterion}, {scope}"
    count = f"{high}" if low == high else f"{low} to {high}"
    return f"{criterion}, {scope} ({'1 seed' if high == 1 else f'mean of {count} seeds'})"


def _draw_lines(axes: Axes, tickets: pd.DataFrame, value: str, styles: dict[tuple[str, str], Style]) -> None:
    """Draw `value` against sparsity: a mean line for each criterion and scope, thin points for its seeds.

    A thin bar at each ticket is its interval of 95 %; that of a loss is of its difference from the dense model's.
    """
    for (criterion, scope), rows in tickets.groupby(["criterion", "scope"]):
        style = styles[criterion, scope]
        axes.vlines(rows["sparsity"], *_interval(rows, value), color=style["color"], linewidth=1.2, alpha=0.6)
        mean = rows.groupby("sparsity")[value].mean()
        if len(mean) < len(rows):
            points = {"color": style["color"], "marker": style["marker"], "linestyle": "none"}
            axes.plot(rows["sparsity"], rows[value], markersize=3, markeredgewidth=0, alpha=0.5, **points)
        axes.plot(mean.index, mean, markersize=5.5, markeredgecolor="white", markeredgewidth=0.7, **style)


def _interval(tickets: pd.DataFrame, value: str) -> tuple[pd.Series, pd.Series]:
    """Bounds of each ticket's `value`."""
    if value == "loss":
        return tuple(tickets["baseline_loss"] + tickets[f"loss_difference_{bound}"] for bound in ("low", "high"))
    return tickets[f"{value}_low"], tickets[f"{value}_high"]


def _draw_loss(axes: Axes, tickets: pd.DataFrame, styles: dict[tuple[str, str], Style]) -> None:
    _draw_lines(axes, tickets, "loss", styles)
    for baseline in tickets["baseline_loss"].unique():
        axes.axhline(baseline, color=BASELINE_COLOUR, linestyle="--", linewidth=1, zorder=1)
    drawn = pd.concat([tickets["loss"], tickets["baseline_loss"]])
    axes.set_ylabel("loss (nats/token)")
    if drawn.max() > LOG_SCALE_RATIO * drawn.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_ylabel("loss (nats/token, log scale)")


def _draw_retention(axes: Axes, tickets: pd.DataFrame, styles: dict[tuple[str, str], Style]) -> None:
    _draw_lines(axes, tickets, "performance_retention", styles)
    axes.axhline(1.0, color=BASELINE_COLOUR, linestyle="--", linewidth=1, zorder=1)
    axes.axhline(WINNING_RETENTION, color=WINNING_COLOUR, linewidth=1, zorder=1)
    axes.annotate(
        f"winning ticket ≥ {WINNING_RETENTION}",
        (0, WINNING_RETENTION),
        xycoords=("axes fraction", "data"),
        xytext=(4, -3),
        textcoords="offset points",
        va="top",
        fontsize="small",
        color=WINNING_COLOUR,
    )
    highest = tickets[["performance_retention", "performance_retention_high"]].max(axis=None)
    axes.set_ylim(0, 1.06 * max(1.0, highest))
    axes.set_ylabel("retention (dense loss / ticket loss)")


def _tokens(tickets: pd.DataFrame) -> str:
    return " or ".join(f"{tokens:,}" for tokens in sorted(tickets["tokens"].unique()))


def tradeoff_figure(tickets: pd.DataFrame) -> Figure:
    """Draw loss and retention against sparsity, one row of two panels for each of the first `PANELS` models and texts.

    Args:
        tickets: one row a ticket, at least one; loss in nats/token, sparsity as a fraction.

    Returns:
        A laid out figure on an Agg canvas, apart from pyplot's global state.
    """
    if tickets.empty:
        raise ValueError("there are no tickets to draw")
    groups = list(tickets.groupby(["model", "data"]))[:PANELS]
    styles = _styles(tickets)
    # Names come from the user: a "$" in one is a dollar sign, not the start of a formula.
    with matplotlib.rc_context({"text.parse_math": False}):
        legend_rows = ceil((len(styles) + 1) / LEGEND_COLUMNS)
        height = 3.5 * len(groups) + 0.7 + LEGEND_ROW * max(0, legend_rows - 2)
        figure = Figure(figsize=(10, height), layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        panels = figure.subplots(len(groups), 2, squeeze=False)
        for ((model, data), rows), (loss, retention) in zip(groups, panels, strict=True):
            title = f"{model} on {data}, {_tokens(rows)} tokens evaluated"
            loss.set_title(fill(title, 85), loc="left", fontsize="medium", fontweight="bold")
            _draw_loss(loss, rows, styles)
            _draw_retention(retention, rows, styles)
            for axes in (loss, retention):
                axes.set_xlabel("sparsity (share of prunable weights removed)")
                axes.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 2.5, 5, 10]))
                axes.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: percent(tick)))
                plain(axes)
        lines = tickets.groupby(["criterion", "scope"])
        handles = [Line2D([], [], label=_label(*key, lines.get_group(key)), **styles[key]) for key in styles]
        dense = Line2D([], [], color=BASELINE_COLOUR, linestyle="--", linewidth=1, label="dense model")
        figure.legend(
            handles=[*handles, dense],
            loc="outside lower center",
            ncols=min(LEGEND_COLUMNS, len(handles) + 1),
            frameon=False,
        )
        lay_out(figure)
    return figure


def plain(axes: Axes) -> None:
    """A faint grid, and no lines above and at the right."""
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def lay_out(figure: Figure) -> None:
    """Lay out once.

    Each drawing would lay out anew, from where the last one left off, and the bytes of a file would depend on which
    files were written before it.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def save_figure(figure: Figure, *paths: Path) -> None:
    """Write `figure` to all `paths`, by suffix as PNG (150 dots/inch) or SVG; equal figures, equal bytes."""
    for path in paths:
        if path.suffix not in METADATA:
            raise ValueError(f"{path}: a figure is written as {' or '.join(METADATA)}")
        with matplotlib.rc_context({"svg.hashsalt": "ltpipe"}), atomic_write(path) as file:
            figure.savefig(file, format=path.suffix[1:], dpi=150, metadata=METADATA[path.suffix])
