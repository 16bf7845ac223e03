"""The figure of tasks: how far each ticket is from the dense model."""

import altair as alt
import pandas as pd

from ltpipe.reporting.cells import mask_name, points
from ltpipe.reporting.charts import PANEL, Figure, Panel, View, figure, known, rounded
from ltpipe.reporting.tables.tasks import MEAN

MOST_PANELS, MOST_TICKETS = 9, 40
"""Maximum number of panels of a model, and of rows in a panel."""
ROW = 16
"""Height of a row, in pixels."""


def tasks_figure(tasks: pd.DataFrame) -> Figure | None:
    """Draw the difference of each ticket from the dense model, one panel a task, of every model.

    The metric of a panel is the first of a task with an interval, as the harness lists them.

    Args:
        tasks: the table of tasks, at least one row.

    Returns:
        None if there are no tickets.
    """
    shown = tasks[tasks["difference"].notna()]
    paired = shown.groupby(["model", "task"])["difference_low"].transform("count") > 0
    shown = shown[shown["difference_low"].notna() | ~paired]
    first = shown.groupby(["model", "task"])["metric"].transform("first")
    shown = shown[shown["metric"] == first]
    if shown.empty:
        return None
    return figure(
        "tasks",
        "Metric of a ticket minus that of the dense model, paired by document, with 95% intervals; the first metric of "
        "each task that is a mean over documents. Left of the line a ticket is below the dense model.",
        shown,
        ["model"],
        _view,
    )


def _view(number: int, model: str, tasks: pd.DataFrame, views: int) -> View:  # noqa: ARG001 (as `figure` calls it)
    names = sorted(tasks["task"].unique(), key=lambda name: name != MEAN)
    colour = alt.Color("criterion:N", scale=alt.Scale(domain=sorted(tasks["criterion"].unique()), range="category"))
    panels = [_panel(tasks[tasks["task"] == name], name, colour) for name in names[:MOST_PANELS]]
    missing = len(names) - len(panels)
    more = f", {missing} more in tasks.csv" if missing else ""
    return View(f"{model}{more}", alt.concat(*panels, columns=2).resolve_scale(color="shared"))


def _panel(rows: pd.DataFrame, task: str, colour: alt.Color) -> Panel:
    rows = rows.assign(
        name=[mask_name(row) for row in rows.to_dict("records")],
        said=[f"{points(value)} points" for value in rows["difference"]],
    ).head(MOST_TICKETS)
    columns = ["criterion", "name", "difference", "difference_low", "difference_high", "value", "dense_value", "said"]
    base = alt.Chart(rounded(rows[columns])).encode(
        y=alt.Y("name:N", sort=rows["name"].tolist(), title=None),
        color=colour,
    )
    line = alt.Chart(pd.DataFrame({"zero": [0]})).mark_rule(strokeDash=[2, 2]).encode(x="zero:Q")
    intervals = base.mark_rule(strokeWidth=2).encode(
        x=alt.X("difference_low:Q", title="difference from the dense model"), x2="difference_high:Q"
    )
    dots = base.mark_point(filled=True, size=50, opacity=1).encode(
        x=alt.X("difference:Q", title="difference from the dense model"),
        tooltip=[
            alt.Tooltip("name:N", title="ticket"),
            alt.Tooltip("value:Q", title="value", format=".4f"),
            alt.Tooltip("dense_value:Q", title="dense model", format=".4f"),
            alt.Tooltip("said:N", title="difference"),
        ],
    )
    metric = rows["metric"].iloc[0]
    return alt.layer(line, *known(intervals, rows["difference_low"]), dots).properties(
        title=f"{task}, {metric}", width=PANEL["width"], height=alt.Step(ROW)
    )
