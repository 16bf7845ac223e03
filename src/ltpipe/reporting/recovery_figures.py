"""The figure of recoveries: each ticket before and after, beside the dense model and the trained dense model."""

import altair as alt
import pandas as pd

from ltpipe.reporting.cells import mask_name
from ltpipe.reporting.charts import PANEL, Figure, Panel, View, figure, rounded
from ltpipe.runtime.labels import recovery_of

MOST_PANELS, MOST_TICKETS = 9, 40
"""Maximum number of panels of a model, and of rows in a panel."""
ROW = 18
"""Height of a row, in pixels."""


def recovery_figure(recoveries: pd.DataFrame) -> Figure | None:
    """Draw the metric of each recovered ticket before and after, one panel a text or task, of every model.

    The metric of a panel is the first of a task, as the harness lists them.

    Args:
        recoveries: the table of recoveries.

    Returns:
        None if there are none.
    """
    pruned = recoveries[recoveries["sparsity"] > 0]
    shown = recoveries if pruned.empty else pruned
    first = shown.groupby(["model", "measured_on"])["metric"].transform("first")
    shown = shown[shown["metric"] == first]
    if shown.empty:
        return None
    return figure(
        "recovery",
        "The loss of a ticket on a text, in nats/token, or its metric in a task: before (open) and after its recovery "
        "(filled). Lines: the dense model (dotted), and the dense model trained in the same way (dashed, in the colour "
        "of the recovery).",
        shown,
        ["model"],
        _view,
    )


def _view(number: int, model: str, recoveries: pd.DataFrame, views: int) -> View:  # noqa: ARG001 (as `figure` calls it)
    recoveries = recoveries.assign(recovery=recoveries["criterion"].map(recovery_of))
    names = list(recoveries["measured_on"].unique())
    known = sorted(recoveries["recovery"].unique())
    colour = alt.Color("recovery:N", scale=alt.Scale(domain=known, range="category"))
    panels = [_panel(recoveries[recoveries["measured_on"] == name], name, colour) for name in names[:MOST_PANELS]]
    missing = len(names) - len(panels)
    more = f", {missing} more in recovery.csv" if missing else ""
    return View(f"{model}{more}", alt.concat(*panels, columns=2).resolve_scale(color="shared"))


def _panel(rows: pd.DataFrame, place: str, colour: alt.Color) -> Panel:
    rows = rows.assign(name=[mask_name(row) for row in rows.to_dict("records")]).head(MOST_TICKETS)
    metric, dense = rows["metric"].iloc[0], rows["dense"].iloc[0]
    columns = ["name", "recovery", "mode", "before", "after", "change", "change_low", "change_high", "tokens"]
    title = f"{metric}, nats/token" if metric == "loss" else metric
    base = alt.Chart(rounded(rows[columns])).encode(
        y=alt.Y("name:N", sort=rows["name"].tolist(), title=None),
        color=colour,
        tooltip=[
            alt.Tooltip("name:N", title="ticket"),
            alt.Tooltip("mode:N"),
            alt.Tooltip("before:Q", format=".4f"),
            alt.Tooltip("after:Q", format=".4f"),
            alt.Tooltip("change:Q", format="+.4f"),
            alt.Tooltip("change_low:Q", title="95% interval from", format="+.4f"),
            alt.Tooltip("change_high:Q", title="to", format="+.4f"),
            alt.Tooltip("tokens:Q", format=","),
        ],
    )
    scale = alt.Scale(zero=False)
    way = base.mark_rule(strokeWidth=2).encode(x=alt.X("before:Q", title=title, scale=scale), x2="after:Q")
    before = base.mark_point(filled=False, size=50, opacity=1).encode(x=alt.X("before:Q", title=title, scale=scale))
    after = base.mark_point(filled=True, size=60, opacity=1).encode(x=alt.X("after:Q", title=title, scale=scale))
    untrained = alt.Chart(pd.DataFrame({"value": [dense]})).mark_rule(strokeDash=[1, 3]).encode(x="value:Q")
    controls = rows[["recovery", "control"]].dropna().drop_duplicates()
    trained = alt.Chart(rounded(controls)).mark_rule(strokeDash=[6, 3]).encode(x="control:Q", color=colour)
    lines = [untrained, *([trained] if len(controls) else [])]
    return alt.layer(*lines, way, before, after).properties(
        title=f"{place}, {metric}", width=PANEL["width"], height=alt.Step(ROW)
    )
