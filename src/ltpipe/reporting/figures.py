"""Figures of one-shot tickets: what sparsity costs, and where it costs too much."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from ltpipe.evaluation.quality import WINNING_RETENTION
from ltpipe.pruning.scopes import ordered_scopes
from ltpipe.reporting.cells import ticket_name
from ltpipe.reporting.charts import (
    DIGITS,
    PANEL,
    ROWS,
    Axes,
    Figure,
    Panel,
    View,
    figure,
    first,
    known,
    level,
    log_ticks,
    rounded,
    view,
)
from ltpipe.reporting.critical import estimate_text, losing_text, winning_text

FIRST_CRITERIA = ("magnitude", "random")  # keep their colours whatever else is in the report
LOG_SCALE_RATIO = 4.0
CONTROL = "random"
SQUASHED, HEADROOM = 2.0, 0.25
"""Controls leave a panel that they would make `SQUASHED` times as high; the others keep `HEADROOM` above them."""
FEW_DIGITS = 100
POINTS = 2000
"""Number of tickets that all views of a figure together have room for."""
ROW = 22
"""Height of a row of dots, in pixels."""
SPARSITY = "sparsity (fraction of prunable weights removed)"


@dataclass(frozen=True)
class Measure:
    """A measure that a panel shows of every ticket.

    Attributes:
        key: column, with bounds in `_low` and `_high`.
        title: heading.
        unit: unit of the axis.
        form: number format in tooltips.
        axis: number format at the axis.
        positive: whether a wide range gets a logarithmic scale.
        dense: column of the dense model's value.
    """

    key: str
    title: str
    unit: str
    form: str
    axis: str
    positive: bool
    dense: str


MEASURES = (
    Measure("performance_retention", "Retention", "dense loss / ticket loss", ".4f", ".1f", False, "dense_retention"),
    Measure("loss", "Loss", "nats/token", ".4f", "~g", True, "baseline_loss"),
    Measure("perplexity", "Perplexity", "exp(loss)", ",.4~g", "~s", True, "baseline_perplexity"),
    Measure("accuracy", "Accuracy", "next token, top-1", ".2%", "~%", False, "baseline_accuracy"),
)


def tradeoff_figure(tickets: pd.DataFrame) -> Figure:
    """Draw retention, loss, perplexity and accuracy against sparsity, one view for each model and text.

    If there are too many tickets, only the criteria and scopes with the highest retention are drawn.

    Args:
        tickets: one row per ticket, at least one; loss in nats/token, sparsity as a fraction.
    """
    criteria, scopes = in_order(tickets["criterion"], tickets["scope"])

    def draw(number: int, place: str, every: pd.DataFrame, views: int) -> View:
        rows = _leading(every, POINTS // views)
        missing = "" if len(rows) == len(every) else f", {len(rows):,} of {len(every):,} tickets"
        tokens = " or ".join(f"{tokens:,}" for tokens in sorted(rows["tokens"].unique()))
        drawn = _drawn(rows)
        axes = Axes.of(number, ("criterion", criteria), ("scope", scopes), rows)
        panels = [_panel(measure, drawn, axes) for measure in MEASURES]
        return view(f"{place}, {tokens} tokens evaluated{missing}", panels, drawn)

    return figure(
        "tradeoff",
        "Points are tickets; vertical bars are 95% intervals (paired bootstrap over sequences; for loss, perplexity "
        "and accuracy, intervals of the difference from the dense model). Lines are means over seeds and start at the "
        f"dense model. Dashed: the dense model; solid grey: a retention of {WINNING_RETENTION}, from which a ticket "
        "wins. Random tickets far above all others are off the scale in the panels of loss and perplexity: a triangle "
        "at the top marks each, and the panel gives their range.",
        tickets,
        ["model", "data"],
        draw,
    )


def critical_figure(curves: pd.DataFrame) -> Figure:
    """Draw the bracket in which each curve of tickets stops winning, and the estimate inside it.

    Args:
        curves: the curves table, at least one row.
    """
    criteria, scopes = in_order(curves["criterion"], curves["scope"])

    def draw(number: int, place: str, every: pd.DataFrame, _: int) -> View:
        rows = _critical(every).nlargest(ROWS, ["last_winning", "estimate"])
        missing = "" if len(rows) == len(every) else f", the largest {ROWS} of {len(every):,}"
        axes = Axes.of(number, ("criterion", criteria), ("scope", scopes), every)
        return View(f"{place}{missing}", alt.concat(_dots(rows, axes)))

    return figure(
        "critical",
        f"Where retention falls below {WINNING_RETENTION}: broad bars extend from the last winning to the first losing "
        "ticket, and the critical sparsity lies between them. Dots are linearly interpolated estimates; their thin "
        "bars are 95% intervals over samples of text, which do not include the error of interpolating. Triangles: no "
        "ticket falls below it, so the critical sparsity is at least the largest one evaluated.",
        curves,
        ["model", "data"],
        draw,
    )


def in_order(criteria: Iterable[str], scopes: Iterable[str]) -> tuple[list[str], list[str]]:
    """Distinct criteria and scopes in the order of their colours and dashes."""
    return first(criteria, *FIRST_CRITERIA), ordered_scopes(scopes)


def _leading(tickets: pd.DataFrame, room: int) -> pd.DataFrame:
    """Return the tickets of one model and text that there is room for, as whole curves if at least one fits."""
    if len(tickets) <= room:
        return tickets
    pairs = ["criterion", "scope"]
    curves = tickets.groupby(pairs)["performance_retention"].agg(["mean", "size"])
    curves = curves.sort_values("mean", ascending=False, kind="stable")
    fitting = curves.index[: max(1, (curves["size"].cumsum() <= room).sum())]
    return tickets[pd.MultiIndex.from_frame(tickets[pairs]).isin(fitting)].head(room)


def _drawn(tickets: pd.DataFrame) -> pd.DataFrame:
    """Return the panels' values for tickets of one model and text, with the bounds of all measures."""
    table = tickets[["criterion", "scope", "seed", "sparsity", "loss", "perplexity", "accuracy"]].astype(
        {"loss": float, "perplexity": float}
    )
    for bound in ("low", "high"):
        loss = (tickets["baseline_loss"] + tickets[f"loss_difference_{bound}"]).astype(float)
        table[f"loss_{bound}"] = loss
        with np.errstate(over="ignore"):
            table[f"perplexity_{bound}"] = np.exp(loss)
        accuracy = tickets["baseline_accuracy"] + tickets[f"accuracy_difference_{bound}"]
        table[f"accuracy_{bound}"] = accuracy.clip(0, 1)  # the bounds are of a difference
    retentions = [f"performance_retention{bound}" for bound in ("", "_low", "_high")]
    baselines = ["baseline_loss", "baseline_perplexity", "baseline_accuracy"]
    return rounded(table.join(tickets[[*retentions, *baselines]]).assign(dense_retention=1.0))


def _panel(measure: Measure, rows: pd.DataFrame, axes: Axes) -> Panel:
    """Draw one measure against sparsity: interval bars, a mean line, points."""
    key, top = measure.key, _top(measure, rows)
    shown = rows[~(rows[key] > top)]
    y_axis = _axis(measure, pd.concat([shown[key], rows[measure.dense]]).dropna(), top)
    x = alt.X("sparsity:Q", title=SPARSITY, axis=alt.Axis(format="~%", tickCount=6))
    every = alt.Chart().encode(x=x, color=axes.colour)
    base = every.transform_filter(f"datum.{key} <= {top}") if len(shown) < len(rows) else every
    note = "above" if measure.positive else "below"  # the side on which tickets are worse
    layers = [
        *(level(value, "dense model", note=note) for value in sorted(rows[measure.dense].dropna().unique())),
        *(
            [level(WINNING_RETENTION, f"wins from {WINNING_RETENTION}", "limit", note)]
            if key == MEASURES[0].key
            else []
        ),
    ]
    bars = base.mark_rule(strokeWidth=1.4, clip=True, aria=False).encode(
        y=alt.Y(f"{key}_low:Q", **y_axis), y2=f"{key}_high:Q", opacity=axes.faded(1)
    )
    joined: dict[str, Any] = {"strokeDash": axes.dash, "opacity": axes.faded(1)}
    line = every.mark_line(clip=True, aria=False).encode(y=alt.Y(f"mean({key}):Q", **y_axis), **joined)
    beginnings = _beginnings(rows, measure)
    begin = (
        alt.Chart(beginnings)
        .mark_line(clip=True, aria=False)
        .encode(x=x, y=alt.Y(f"{key}:Q", **y_axis), color=axes.colour, **joined)
    )
    tooltip = [
        "criterion:N",
        "scope:N",
        "seed:N",
        alt.Tooltip("sparsity:Q", format="~%"),
        alt.Tooltip(f"{key}:Q", title=f"{measure.title.lower()} ({measure.unit})", format=measure.form),
    ]
    points = axes.points(base, MEASURES.index(measure), key, measure.form, y_axis, tooltip)
    title = alt.TitleParams(measure.title)
    beyond = []
    if len(shown) < len(rows):
        out = rows.loc[rows[key] > top, key]
        form = "{:,.0f}" if out.max() >= FEW_DIGITS else "{:.2f}"
        span = " to ".join(dict.fromkeys(form.format(value) for value in (out.min(), out.max())))
        title = alt.TitleParams(measure.title, subtitle=f"▲ off the scale: {CONTROL}, {span}")
        beyond = [
            every.transform_filter(f"datum.{key} > {top}")
            .mark_point(shape="triangle-up", filled=True, size=60, style="halo")
            .encode(y=alt.value(5), opacity=axes.faded(1), tooltip=tooltip)
        ]
    return alt.layer(
        points,
        *(part for parts in layers for part in parts),
        *known(bars, rows[f"{key}_low"]),
        *known(begin, beginnings[key]),
        line,
        *beyond,
    ).properties(title=title, **PANEL)


def _top(measure: Measure, rows: pd.DataFrame) -> float:
    """Return where a loss axis ends so that random controls do not squash the rest; infinite if they do not."""
    others = rows[rows["criterion"] != CONTROL]
    low, high = rows[measure.dense].min(), others[measure.key].max()
    if not measure.positive or not high > low or rows[measure.key].max() - low <= SQUASHED * (high - low):
        return inf
    return float(f"{high + HEADROOM * (high - low):.{DIGITS}g}")


def _beginnings(rows: pd.DataFrame, measure: Measure) -> pd.DataFrame:
    """Return each criterion and scope's line from the dense model (sparsity 0) to the mean at its lowest sparsity."""
    pairs = ["criterion", "scope"]
    least = rows[rows["sparsity"] == rows.groupby(pairs)["sparsity"].transform("min")]
    means = least.groupby([*pairs, "sparsity"], as_index=False)[[measure.key, measure.dense]].mean()
    dense = means.assign(**{"sparsity": 0.0, measure.key: means[measure.dense]})
    return rounded(pd.concat([dense, means[means["sparsity"] > 0]])).drop(columns=measure.dense)


def _axis(measure: Measure, values: pd.Series, top: float) -> dict[str, Any]:
    """Return a measure's vertical axis for these values, up to `top`; logarithmic if they span more than fourfold."""
    low, high = values.min(), values.max()
    end: dict[str, Any] = {} if top == inf else {"domainMax": top}
    if measure.positive and high > LOG_SCALE_RATIO * low > 0:
        return {
            "title": f"{measure.unit}, log scale",
            "axis": alt.Axis(format=measure.axis, values=log_ticks(low, high)),
            "scale": alt.Scale(type="log", nice=False, **end),
        }
    axis = alt.Axis(format=measure.axis, tickCount=5)
    return {"title": measure.unit, "axis": axis, "scale": alt.Scale(zero=not measure.positive, **end)}


def _critical(curves: pd.DataFrame) -> pd.DataFrame:
    """Return named rows of dots, with the largest sparsity in place of anything beyond it."""
    rows = curves.to_dict("records")
    shown = curves[["criterion", "scope"]].assign(
        name=list(map(ticket_name, rows)),
        winning=list(map(winning_text, rows)),
        losing=list(map(losing_text, rows)),
        shown=list(map(estimate_text, rows)),
        beyond=curves["first_losing_sparsity"].isna(),
        last_winning=curves["last_winning_sparsity"],
        first_losing=curves["first_losing_sparsity"],
    )
    for bound in ("", "_low", "_high"):
        found = curves[f"critical_sparsity_estimate{bound}"].fillna(curves["largest_sparsity"])
        # One sequence gives no interval at all.
        shown[f"estimate{bound}"] = found if not bound else found.where(curves["area_low"].notna())
    return rounded(shown)


def _dots(rows: pd.DataFrame, axes: Axes) -> Panel:
    order = rows.sort_values(["last_winning", "estimate", "name"], ascending=[False, False, True])["name"].tolist()
    colour = alt.Color("criterion:N", scale=axes.colour["scale"], legend=None)  # rows are labelled
    x: dict[str, Any] = {"title": "critical sparsity", "axis": alt.Axis(format="~%", tickCount=6)}
    base = alt.Chart(rows).encode(y=alt.Y("name:N", sort=order, title=None), color=colour)
    brackets = base.mark_rule(strokeWidth=ROW / 2, opacity=0.3).encode(
        x=alt.X("last_winning:Q", **x, scale=alt.Scale(zero=True)), x2="first_losing:Q"
    )
    intervals = base.mark_rule(strokeWidth=2).encode(x=alt.X("estimate_low:Q", **x), x2="estimate_high:Q")
    shapes = alt.Scale(domain=[False, True], range=["circle", "triangle-right"])
    dots = base.mark_point(filled=True, size=70, opacity=1, style="halo").encode(
        x=alt.X("estimate:Q", **x),
        shape=alt.Shape("beyond:N", scale=shapes, legend=None),
        tooltip=[
            "name:N",
            alt.Tooltip("winning:N", title="last winning"),
            alt.Tooltip("losing:N", title="first losing"),
            alt.Tooltip("shown:N", title="estimate, 95% interval over text"),
        ],
    )
    return alt.layer(*known(brackets, rows["first_losing"]), *known(intervals, rows["estimate_low"]), dots).properties(
        width=2 * PANEL["width"], height=alt.Step(ROW)
    )
