"""The figure across models: what the same ticket costs models of different sizes."""

import altair as alt
import pandas as pd

from ltpipe.reporting.cells import percent
from ltpipe.reporting.charts import PANEL, Figure, Panel, View, figure, known, rounded
from ltpipe.reporting.figures import in_order

MOST_PANELS = 12
"""Maximum number of panels of a text."""


def models_figure(models: pd.DataFrame) -> Figure | None:
    """Draw the loss added to each model's own against its size, one panel a scope and sparsity, of every text.

    Of stochastic criteria, the mean over seeds is drawn.

    Args:
        models: the table of models.

    Returns:
        None if no two models have a ticket in common.
    """
    if models.empty:
        return None
    return figure(
        "models",
        "Loss of a ticket minus that of its dense model against the number of the model's parameters, with paired 95% "
        "intervals (not for means over several seeds). Lines connect the same criterion on different models.",
        models,
        ["data"],
        _view,
    )


def _view(number: int, text: str, models: pd.DataFrame, views: int) -> View:  # noqa: ARG001 (as `figure` calls it)
    criteria, scopes = in_order(models["criterion"], models["scope"])
    colour = alt.Color("criterion:N", scale=alt.Scale(domain=criteria, range="category"))
    places = sorted(models.groupby(["scope", "sparsity"]).groups, key=lambda place: (scopes.index(place[0]), place[1]))
    panels = [
        _panel(models[(models["scope"] == scope) & (models["sparsity"] == sparsity)], colour).properties(
            title=f"{scope}, {percent(sparsity)}"
        )
        for scope, sparsity in places[:MOST_PANELS]
    ]
    missing = len(places) - len(panels)
    more = f", {missing} more in models.csv" if missing else ""
    return View(f"{text}{more}", alt.concat(*panels, columns=2).resolve_scale(color="shared"))


def _panel(rows: pd.DataFrame, colour: alt.Color) -> Panel:
    means = rows.groupby(["criterion", "model", "parameters"], as_index=False, observed=True).agg(
        difference=("loss_difference", "mean"),
        low=("loss_difference_low", "mean"),
        high=("loss_difference_high", "mean"),
        seeds=("loss_difference", "size"),
    )
    means.loc[means["seeds"] > 1, ["low", "high"]] = float("nan")
    base = alt.Chart(rounded(means)).encode(
        x=alt.X("parameters:Q", title="parameters, log scale", scale=alt.Scale(type="log", nice=False, padding=20),
                axis=alt.Axis(format="~s", tickCount=4)),
        color=colour,
    )  # fmt: skip
    y = alt.Y("difference:Q", title="loss − dense, nats/token")
    intervals = base.mark_rule(strokeWidth=2).encode(y=alt.Y("low:Q", title="loss − dense, nats/token"), y2="high:Q")
    points = base.mark_point(filled=True, size=50, opacity=1).encode(
        y=y,
        tooltip=[
            alt.Tooltip("model:N"),
            alt.Tooltip("criterion:N"),
            alt.Tooltip("difference:Q", title="loss − dense", format=".4f"),
            alt.Tooltip("seeds:Q"),
        ],
    )
    layers = [base.mark_line().encode(y=y), *known(intervals, means["low"]), points]
    return alt.layer(*layers).properties(**PANEL)
