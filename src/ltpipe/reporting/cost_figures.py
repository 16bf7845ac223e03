"""Time and memory of stages as a figure."""

from typing import Any

import altair as alt
import pandas as pd

from ltpipe.reporting.charts import PANEL, ROWS, Figure, Panel, View, rounded
from ltpipe.reporting.figures import ROW

MEBI = 2**20


def costs_figure(costs: pd.DataFrame) -> Figure:
    """Draw the time that stages took, and their planned and measured memory.

    Args:
        costs: the costs table, at least one row.
    """
    title = "All stages" if len(costs) <= ROWS else f"The first {ROWS} of {len(costs):,}, by stage"
    costs = costs.head(ROWS)
    places = [
        model if pd.isna(data) else f"{model} on {data}"
        for model, data in zip(costs["model"], costs["data"], strict=True)
    ]
    if len(set(places)) == 1:  # in the title it leaves the bars more room
        title, names = f"{title}, {places[0]}", costs["stage"]
    else:
        names = [f"{stage}, {place}" for stage, place in zip(costs["stage"], places, strict=True)]
    rows = rounded(
        costs[["runs", "seconds", "median_seconds", "longest_seconds"]].assign(
            name=names,
            planned=costs["planned_bytes"].astype(float) / MEBI,
            measured=costs["measured_bytes"].astype(float) / MEBI,
        )
    )
    base = alt.Chart().encode(y=alt.Y("name:N", sort=None, title=None))
    size: dict[str, Any] = {"width": 1.6 * PANEL["width"], "height": alt.Step(ROW + 6)}
    panels: list[alt.Chart | Panel] = [_time(base).properties(title="Time", **size)]
    memory = ""
    if rows["planned"].notna().any():
        memory = (
            " Below: the largest memory peak of all its runs. Bars are measured; ticks were planned before the run, "
            "for tensors alone."
        )
        panels.append(_memory(base).properties(title="Memory", **size))
    return Figure(
        "costs",
        "Total wall time of all runs of a stage." + memory,
        (View(title, alt.concat(*panels, columns=1, data=rows)),),
    )


def _time(base: alt.Chart) -> alt.Chart:
    return base.mark_bar(height={"band": 0.55}).encode(
        x=alt.X("seconds:Q", title="seconds, all runs together", axis=alt.Axis(format=",~r", tickCount=6)),
        tooltip=[
            alt.Tooltip("name:N", title="stage"),
            "runs:Q",
            alt.Tooltip("seconds:Q", title="all runs (s)", format=",.1f"),
            alt.Tooltip("median_seconds:Q", title="median run (s)", format=",.1f"),
            alt.Tooltip("longest_seconds:Q", title="longest run (s)", format=",.1f"),
        ],
    )


def _memory(base: alt.Chart) -> Panel:
    tooltip = [
        alt.Tooltip("name:N", title="stage"),
        alt.Tooltip("planned:Q", title="planned (MiB)", format=",.0f"),
        alt.Tooltip("measured:Q", title="measured (MiB)", format=",.0f"),
    ]
    known = base.transform_filter("isValid(datum.measured)")
    return alt.layer(
        known.mark_bar(height={"band": 0.55}).encode(
            x=alt.X("measured:Q", title="peak memory (MiB)", axis=alt.Axis(format=",~r", tickCount=6)), tooltip=tooltip
        ),
        known.mark_tick(thickness=3, height={"band": 0.9}, opacity=1, style="planned").encode(
            x="planned:Q", tooltip=tooltip
        ),
    )
