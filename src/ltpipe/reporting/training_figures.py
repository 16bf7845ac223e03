"""Figures of trainings: accuracy and speed against weights remaining, lines between trainings, early birds.

Each figure has one view per training.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import altair as alt
import pandas as pd

from ltpipe.reporting.charts import PANEL, Axes, Figure, Panel, View, figure, known, rounded, view
from ltpipe.reporting.trainings import label
from ltpipe.training.record import KINDS, TICKET

OWN = "own mask"
"""Stands for the donor of branches without one."""
PANELS = (
    ("test_accuracy", "Test accuracy at early stop", "test accuracy", ".2%", "~%"),
    ("early_stop_iteration", "Early-stop iteration", "iteration", ",.0f", "~s"),
)
"""Column, title, unit, and number formats in tooltips and at the axis."""
TICKS = 9
"""Neighbouring ticks of weights remaining are at least 1 / `TICKS` of the axis apart, so that labels do not overlap."""
BESIDE = 0.24
"""Fraction of the distance between two levels over which the branches of one are spread."""
STAR = (
    "M0,-1L0.235,-0.324L0.951,-0.309L0.38,0.124L0.588,0.809L0,0.4L-0.588,0.809L-0.38,0.124L-0.951,-0.309L-0.235,-0.324Z"
)
"""A five-pointed star, which Vega lacks."""


def levels_figure(levels: pd.DataFrame) -> Figure:
    """Draw test accuracy at early stop, and the early-stop iteration, against weights remaining.

    Each branch kind has one line, the mean over replicates, with 95 % intervals if there are several; the dense model's
    mean is a horizontal line with a band.

    Args:
        levels: the levels table, at least one row.
    """
    kinds = [label(kind) for kind in KINDS[:-1]] + [label(KINDS[-1], "another training")]
    donors = [OWN, *sorted(levels["donor"].dropna().unique())]

    def draw(number: int, training: str, table: pd.DataFrame, _: int) -> View:
        rows = _drawn(table)
        rows = rows.assign(beside=_beside(rows))
        axes = Axes.of(number, ("branch", kinds), ("mask", donors), rows)
        panels = [_branches(rows, axes, *panel) for panel in enumerate(PANELS)]
        return view(f"{training}, {_replicates(*table['replicates'])}", panels, rows)

    return figure(
        "levels",
        "Points are means over replicates, bars their 95% intervals (Student's t); branches of one level are drawn "
        "side by side. Accuracy is measured on test data with the weights at the early-stop iteration, the first "
        "minimum of the validation loss. Dashed: the dense model, with its interval.",
        levels,
        ["training"],
        draw,
    )


def connectivity_figure(points: pd.DataFrame) -> Figure:
    """Draw the error along the line between two runs, one colour per level.

    Thin lines are replicates, thick ones their mean.

    Args:
        points: the connectivity table, at least one row.
    """

    def draw(_: int, training: str, table: pd.DataFrame, __: int) -> View:
        lines = table[["replicate", "first", "second"]].astype(str).agg(" ".join, axis=1)
        rows = rounded(table.assign(line=lines))
        base = alt.Chart().encode(
            x=alt.X("alpha:Q", title="α, from the second run (0) to the first (1)", axis=alt.Axis(tickCount=6)),
            color=_graded("level", rows["level"]),
        )
        error: dict[str, Any] = {
            "title": "test error",
            "axis": alt.Axis(format="~%", tickCount=5),
            "scale": alt.Scale(zero=True),
        }
        thin = base.mark_line(strokeWidth=0.8, opacity=0.5, aria=False).encode(
            y=alt.Y("error:Q", **error), detail="line:N"
        )
        mean = base.mark_line(strokeWidth=2.5).encode(
            y=alt.Y("mean(error):Q", **error),
            tooltip=[
                "level:O",
                alt.Tooltip("alpha:Q", title="α", format=".2f"),
                alt.Tooltip("mean(error):Q", title="mean test error", format=".2%"),
            ],
        )
        return _single(training, rows, [thin, mean])

    return figure(
        "connectivity",
        "Test error along the straight line between the weights of two runs from one rewinding point that saw "
        "the data in different orders. Thin lines are replicates, thick lines their mean.",
        points,
        ["training"],
        draw,
    )


def early_birds_figure(masks: pd.DataFrame) -> Figure:
    """Draw the rule's value in the window by iteration, one colour per sparsity, one line per replicate.

    A star marks convergence.

    Args:
        masks: the early-bird table, at least one row.
    """

    def draw(_: int, training: str, table: pd.DataFrame, __: int) -> View:
        rows = rounded(table)
        corrected = ", chance-corrected" if rows["chance_corrected"].all() else ""
        value = f"{' or '.join(sorted(rows['rule'].unique()))}{corrected}, worst in the window"
        base = alt.Chart().encode(
            x=alt.X(
                "iteration:Q",
                title="iteration of the dense training",
                axis=alt.Axis(format="~s", tickMinStep=1, tickCount=8),
                scale=alt.Scale(zero=True),
            ),
            y=alt.Y("distance:Q", title=value, axis=alt.Axis(tickCount=5)),
            color=_graded("sparsity", rows["sparsity"], format="~%"),
            tooltip=[
                alt.Tooltip("sparsity:Q", format="~%"),
                "replicate:O",
                alt.Tooltip("iteration:Q", format=",.0f"),
                alt.Tooltip("distance:Q", title=value, format=".4f"),
            ],
        )
        lines = base.mark_line(strokeWidth=1.5, aria=False).encode(detail="replicate:N")
        points = base.mark_point(filled=True, size=24, opacity=1, style="halo")
        stars = base.transform_filter("datum.iteration == datum.converged").mark_point(
            shape=STAR, filled=True, size=160, opacity=1, style="halo"
        )
        thresholds = alt.Chart().transform_aggregate(groupby=["threshold"]).mark_rule(style="dense")
        return _single(training, rows, [thresholds.encode(y="threshold:Q"), lines, points, stars])

    return figure(
        "early_birds",
        "How much masks drawn while the dense model trains still change, one line per replicate. Dashed: the "
        "threshold; star: the first mask that counts as converged.",
        masks,
        ["training"],
        draw,
    )


def _drawn(levels: pd.DataFrame) -> pd.DataFrame:
    """Return the panels' values for a training's levels; a flag marks the dense model."""
    columns = ["level", "weights_remaining", "replicates"]
    measures = [f"{key}{bound}" for key, *_ in PANELS for bound in ("", "_low", "_high")]
    donors = levels["donor"].where(levels["donor"].isna(), "another training")
    return rounded(
        levels[[*columns, *measures]].assign(
            branch=list(map(label, levels["branch"], donors)),
            mask=levels["donor"].fillna(OWN),
            dense=levels["level"].eq(0) & levels["branch"].eq(TICKET),
        )
    )


def _branches(rows: pd.DataFrame, axes: Axes, number: int, panel: tuple[str, str, str, str, str]) -> Panel:
    """Draw a column of the levels table against weights remaining, with intervals."""
    key, title, unit, form, axis = panel
    ticks = _ticks(rows["weights_remaining"].tolist())
    x = alt.X(
        "beside:Q",
        title="weights remaining (log scale)",
        scale=alt.Scale(type="log", reverse=True, nice=False, domain=_span(rows)),
        axis=alt.Axis(values=ticks, format=".3~p"),
    )
    low, high = f"{key}_low", f"{key}_high"
    y: dict[str, Any] = {
        "title": unit,
        "axis": alt.Axis(format=axis, tickCount=5),
        "scale": alt.Scale(zero=key == "early_stop_iteration"),
    }
    dense = alt.Chart().transform_filter("datum.dense")
    base = alt.Chart().encode(x=x, color=axes.colour)
    bars = base.mark_rule(strokeWidth=1.4, aria=False).encode(
        y=alt.Y(f"{low}:Q", **y), y2=f"{high}:Q", opacity=axes.faded(1)
    )
    line = base.mark_line(aria=False).encode(y=alt.Y(f"{key}:Q", **y), strokeDash=axes.dash, opacity=axes.faded(1))
    tooltip = [
        "branch:N",
        "mask:N",
        "level:O",
        "replicates:Q",
        alt.Tooltip("weights_remaining:Q", title="weights remaining", format=".1%"),
        alt.Tooltip(f"{key}:Q", title=f"mean {unit}", format=form),
    ]
    layers = [
        axes.points(base, number, key, form, y, tooltip),
        *known(
            dense.mark_rect(style="dense-band").encode(y=alt.Y(f"{low}:Q", **y), y2=f"{high}:Q"),
            rows[rows["dense"]][low],
        ),
        dense.mark_rule(style="dense").encode(y=alt.Y(f"{key}:Q", **y)),
        *known(bars, rows[low]),
        line,
    ]
    return alt.layer(*layers).properties(title=title, **PANEL)


def _beside(rows: pd.DataFrame) -> pd.Series:
    """Return where branches are drawn: side by side near their weights remaining, so that no interval is hidden."""
    lines = pd.factorize(rows["branch"] + rows["mask"])[0]
    levels = sorted(rows["weights_remaining"].unique())
    step = min((high / low for low, high in pairwise(levels)), default=2.0)
    return rows["weights_remaining"] * step ** (-BESIDE * (lines - lines.max() / 2) / max(lines.max(), 1))


def _span(rows: pd.DataFrame) -> list[float]:
    """Return the domain of an axis of weights remaining; a single value gets some room on both sides."""
    places = rows[["weights_remaining", "beside"]]
    low, high = float(places.min(axis=None)), float(places.max(axis=None))
    return [low, high] if low < high else [low / 2, high]


def _ticks(remaining: Sequence[float]) -> list[float]:
    """Return levels for an axis of weights remaining, far enough apart for their labels."""
    ticks: list[float] = []
    least = (max(remaining) / min(remaining)) ** (1 / TICKS)
    for weights in sorted(set(remaining), reverse=True):
        if not ticks or ticks[-1] / weights >= least:
            ticks.append(weights)
    return ticks


def _single(training: str, rows: pd.DataFrame, layers: Sequence[alt.Chart]) -> View:
    panel = alt.layer(*layers).properties(width=1.6 * PANEL["width"], height=1.2 * PANEL["height"])
    return View(f"{training}, {_replicates(rows['replicate'].nunique())}", alt.concat(panel, data=rows))


def _graded(column: str, values: pd.Series, **legend: Any) -> alt.Color:
    """Return a colour encoding that maps ordered values from the first colour to the last."""
    known = sorted(values.unique().tolist())
    return alt.Color(f"{column}:O", scale=alt.Scale(domain=known, range="ordinal"), legend=alt.Legend(**legend))


def _replicates(*counts: int) -> str:
    low, high = min(counts), max(counts)
    return f"{high if low == high else f'{low} to {high}'} replicate{'s' if high > 1 else ''}"
