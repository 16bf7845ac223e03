"""Building blocks of figures: views of panels, with one specification for the page and for image files."""

import re
from base64 import b64encode
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from math import ceil, floor, log10
from typing import Any, Self

import altair as alt
import pandas as pd
import vl_convert

from ltpipe.reporting.theme import LIGHT, vega_config

Panel = alt.LayerChart | alt.FacetChart
"""Layered charts in altair."""
PANEL = {"width": 330, "height": 220}
"""Size of a panel in image files, in pixels; on the page its width follows the window."""
DIGITS = 6
"""Significant digits of numbers in figures."""
DASHES = ([1, 0], [2, 2], [7, 3], [7, 2, 2, 2], [1, 3], [10, 3, 2, 3, 2, 3])
SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross")
FADED = 0.08
MANY_DECADES = 2.5
SCALE = 2
"""PNG files have 192 dots an inch, for papers."""
LARGEST_SVG = 1_000_000
VIEWS = 20
"""Maximum number of views in a figure; a PNG of two hundred would be too high to draw."""
ROWS = 40
"""Maximum number of rows of dots or bars in a panel."""


@dataclass(frozen=True)
class View:
    """One part of a figure: a model and text, or a training.

    Attributes:
        title: its subject, and what that was measured on.
        chart: its panels, side by side.
    """

    title: str
    chart: alt.ConcatChart

    @cached_property
    def spec(self) -> dict[str, Any]:
        """The specification in Vega-Lite, without any look."""
        return self.chart.to_dict(validate=False) | {"config": {}, "description": self.title}


@dataclass(frozen=True)
class Figure:
    """A figure of the report.

    Attributes:
        name: stem of its files.
        caption: what is drawn, how to read it, and what intervals it has.
        views: its parts.
    """

    name: str
    caption: str
    views: tuple[View, ...]

    @cached_property
    def svg(self) -> str:
        """The figure as a light SVG document; equal figures, equal text."""
        return _numbered(vl_convert.vegalite_to_svg(self._whole))

    @property
    def image(self) -> str:
        """The figure as a data URL: the SVG document, or where that is too large for a page a coarser PNG."""
        if len(self.svg) <= LARGEST_SVG:
            return f"data:image/svg+xml;base64,{b64encode(self.svg.encode()).decode()}"
        return f"data:image/png;base64,{b64encode(vl_convert.vegalite_to_png(self._whole)).decode()}"

    @cached_property
    def png(self) -> bytes:
        """The figure as a light PNG image; equal figures, equal bytes."""
        return vl_convert.vegalite_to_png(self._whole, scale=SCALE)

    @property
    def _whole(self) -> dict[str, Any]:
        """All views below each other."""
        views = [_titled(view) for view in self.views]
        datasets = {name: rows for view in views for name, rows in view.pop("datasets", {}).items()}
        config = vega_config(LIGHT) | {"background": LIGHT.page, "padding": 12}
        return {
            "$schema": alt.SCHEMA_URL,
            "vconcat": views,
            "spacing": 36,
            "datasets": datasets,
            "params": [parameter for view in views for parameter in view.pop("params", [])],
            "resolve": {"scale": dict.fromkeys(("color", "shape", "strokeDash"), "independent")},
            "config": config,
        }


Draw = Callable[[int, str, pd.DataFrame, int], View]


def _numbered(svg: str) -> str:
    """Number a document's gradients and clips from 0; Vega numbers them on within a process."""
    numbers: defaultdict[str, int] = defaultdict(count().__next__)
    return re.sub(
        r'(id="|url\(#)(gradient_|clip)(\d+)', lambda name: f"{name[1]}{name[2]}{numbers[name[2] + name[3]]}", svg
    )


def _titled(view: View) -> dict[str, Any]:
    spec = {key: value for key, value in view.spec.items() if key not in ("$schema", "config")}
    return spec | {"title": {"text": view.title, "fontSize": 15, "offset": 14}}


@dataclass(frozen=True)
class Axes:
    """Encodings of the lines of a view, which fade when the legend selects others.

    Attributes:
        colour, dash, shape: encodings.
        chosen: the selections.
    """

    colour: alt.Color
    dash: alt.StrokeDash
    shape: alt.Shape
    chosen: tuple[alt.Parameter, ...]

    @classmethod
    def of(
        cls, view: int, colours: tuple[str, Sequence[str]], dashes: tuple[str, Sequence[str]], rows: pd.DataFrame
    ) -> Self:
        """Colours by one column and dashes and shapes by another.

        Args:
            view: number of the view, so that selections of two views have two names.
            colours: column, and all values that any view has, in the order of colours: a value looks the same
                wherever it is.
            dashes: the same of dashes and shapes.
            rows: of this view: its legend has no other values.
        """
        (colour, names), (dash, others) = colours, dashes

        def legend(column: str, known: Sequence[str], least: int = 1) -> alt.Legend | None:
            there = [value for value in known if value in set(rows[column])]
            return alt.Legend(values=there) if len(there) >= least else None

        def cycled(looks: Sequence[Any]) -> dict[str, Any]:
            ranged = [looks[index % len(looks)] for index in range(len(others))]
            return {"scale": alt.Scale(domain=list(others), range=ranged), "legend": legend(dash, others, 2)}

        scale = alt.Scale(domain=list(names), range="category")
        return cls(
            alt.Color(f"{colour}:N", scale=scale, legend=legend(colour, names)),
            alt.StrokeDash(f"{dash}:N", **cycled(DASHES)),
            alt.Shape(f"{dash}:N", **cycled(SHAPES)),
            tuple(
                alt.selection_point(name=f"{column}_{view}", fields=[column], bind="legend")
                for column in (colour, dash)
            ),
        )

    def points(
        self, base: alt.Chart, number: int, key: str, form: str, y: dict[str, Any], tooltip: Sequence[Any]
    ) -> alt.Chart:
        """The points of a panel, each with its interval among the tooltips.

        A selection is bound to the legends only if its layer makes them: points have to be the first layer of their
        panel. Those of the first panel are bound, and all other panels follow.

        Args:
            base: chart with the horizontal axis.
            number: number of the panel.
            key: column, with bounds in `_low` and `_high`.
            form: of numbers in tooltips.
            y: vertical axis.
            tooltip: further values of a point.
        """
        low, high = (f"datum.{key}_{bound}" for bound in ("low", "high"))
        interval = f"isValid({low}) ? format({low}, '{form}') + ' to ' + format({high}, '{form}') : '–'"
        drawn = (
            base.transform_calculate(interval=interval)
            .mark_point(filled=True, size=42, style="halo")
            .encode(
                y=alt.Y(f"{key}:Q", **y),
                shape=self.shape,
                opacity=self.faded(1),
                tooltip=[*tooltip, alt.Tooltip("interval:N", title="95% interval")],
            )
        )
        return drawn if number else drawn.add_params(*self.chosen)

    def faded(self, opacity: float) -> Any:
        """Return an opacity that is low for entries that the legend has not chosen."""
        return alt.when(*self.chosen).then(alt.value(opacity)).otherwise(alt.value(FADED * opacity))


def view(title: str, panels: Iterable[Panel], rows: pd.DataFrame) -> View:
    """Return a view whose panels show the same rows, with one legend for all."""
    chart = alt.concat(*panels, columns=2, data=rows)
    return View(title, chart.resolve_scale(color="shared", strokeDash="shared", shape="shared"))


def figure(name: str, caption: str, table: pd.DataFrame, by: Sequence[str], draw: Draw) -> Figure:
    """Return a figure with a view for each group of a table's rows, as far as there is room.

    Args:
        name: stem of its files.
        caption: what is drawn; extended if there are too many groups.
        table: the rows.
        by: columns whose names identify groups.
        draw: makes a view, of its number, the group's name, its rows, and the number of views.
    """
    found = list(table.groupby(list(by)))
    shown = found[:VIEWS]
    more = f" Only the first {VIEWS} of {len(found)} views are drawn." if len(found) > VIEWS else ""
    views = tuple(draw(number, " on ".join(key), rows, len(shown)) for number, (key, rows) in enumerate(shown))
    return Figure(name, caption + more, views)


def rounded(table: pd.DataFrame) -> pd.DataFrame:
    """Return floats with as many digits as figures need; infinite ones become missing."""

    def short(value: float) -> float:
        return float(f"{value:.{DIGITS}g}")

    floats = table.select_dtypes("float")
    return table.assign(**{name: floats[name].map(short, na_action="ignore") for name in floats}).replace(
        {float("inf"): None, float("-inf"): None}
    )


def first(names: Iterable[str], *leading: str) -> list[str]:
    """Return distinct names: all leading ones, present or not, then the others by name."""
    return [*leading, *sorted(set(names) - set(leading))]


def known(layer: alt.Chart, values: pd.Series) -> list[alt.Chart]:
    """Return the layer that draws these values; none if all are missing, since Vega would warn in the console."""
    return [layer] if values.notna().any() else []


def log_ticks(low: float, high: float) -> list[float]:
    """Return round numbers of a logarithmic axis: 1, 2, 3, 5 of every decade, or only decades if there are many."""
    decades = range(floor(log10(low)), ceil(log10(high)) + 1)
    steps = (1,) if log10(high / low) > MANY_DECADES else (1, 2, 3, 5)
    return [step * 10.0**decade for decade in decades for step in steps if low <= step * 10.0**decade <= high]


def level(value: float, text: str = "", style: str = "dense", note: str = "above") -> list[alt.Chart]:
    """Return a line across a panel, with a note at its right end."""
    rows = alt.Data(values=[{"y": value}])
    drawn = [alt.Chart(rows).mark_rule(style=style).encode(y="y:Q")]
    if text:
        drawn.append(alt.Chart(rows).mark_text(style=note, text=text).encode(y="y:Q", x=alt.value("width")))
    return drawn
