"""The light and dark themes of the page and its figures."""

from dataclasses import asdict, dataclass
from typing import Any

FONT = "-apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'Liberation Sans', Arial, system-ui, sans-serif"


@dataclass(frozen=True)
class Theme:
    """Colours of the page, in CSS notation.

    Attributes:
        page, raised: backgrounds of the page and of raised elements.
        text, soft: primary and secondary text.
        line: hairlines and grids.
        accent: interactive elements.
        win: winning tickets.
        categories: criteria and branches, safe for red-green colour blindness.
        ramp: quantities from lowest to highest.
        diverging: quantities below, at and above zero.
        graded: ordered lines, from the first to the last.
    """

    page: str
    raised: str
    text: str
    soft: str
    line: str
    accent: str
    win: str
    categories: tuple[str, ...]
    ramp: tuple[str, ...]
    diverging: tuple[str, ...]
    graded: tuple[str, ...]

    @property
    def variables(self) -> dict[str, str]:
        """The single colours, by names of CSS variables."""
        return {name: value for name, value in asdict(self).items() if isinstance(value, str)}


# Okabe and Ito's colour-blind-safe palette without its yellow and black, its blues apart, then wine, olive and indigo
# of Paul Tol's; each dark (below: light) enough for a contrast of 3:1 with the page.
LIGHT = Theme(
    page="#ffffff",
    raised="#f6f7f9",
    text="#1a1d21",
    soft="#575f69",
    line="#dde1e6",
    accent="#0b62a4",
    win="#17693a",
    categories=("#0072B2", "#D55E00", "#00875F", "#BC5F93", "#B07A00", "#2E90CB", "#882255", "#808020", "#332288"),
    ramp=("#f3f6f9", "#c3dcee", "#7fb4da", "#3583bd", "#0a4f8a", "#062b4f"),
    diverging=("#e39a6a", "#f2c9ad", "#f4f5f6", "#bcd8ee", "#7ab5e2"),
    graded=("#440154", "#3e4989", "#26828e", "#1f9e68", "#769b1a"),
)
DARK = Theme(
    page="#14171b",
    raised="#1d2126",
    text="#e7e9ec",
    soft="#a4acb6",
    line="#343a42",
    accent="#74bdf0",
    win="#6fd39a",
    categories=("#4FA8E0", "#F58A4B", "#35C79A", "#DE9CC2", "#F2B84B", "#9AD2F5", "#D9709F", "#C2C25A", "#9C98EE"),
    ramp=("#20262d", "#1f4160", "#29689c", "#4d98d0", "#93c8ee", "#e3f1fb"),
    diverging=("#9a5527", "#5f4333", "#262b31", "#2b4a66", "#2d6b9a"),
    graded=("#b08ae0", "#7d9be8", "#45b6c4", "#4fce93", "#cbe04f"),
)


def vega_config(theme: Theme) -> dict[str, Any]:
    """Return the Vega configuration that gives charts the look of the page."""
    words = {"labelColor": theme.soft, "titleColor": theme.soft, "titleFontWeight": "normal"}
    return {
        "background": None,
        "font": FONT,
        "view": {"stroke": None},
        "concat": {"spacing": 28},
        "title": {
            "color": theme.text,
            "fontSize": 13,
            "fontWeight": 600,
            "anchor": "start",
            "frame": "group",
            "offset": 8,
            "subtitleColor": theme.soft,
            "subtitleFontSize": 11,
        },
        "axis": {
            **words,
            "labelFontSize": 11,
            "titleFontSize": 11,
            "gridColor": theme.line,
            "gridOpacity": 0.7,
            "domain": False,
            "domainColor": theme.soft,
            "tickColor": theme.soft,
            "ticks": False,
            "labelPadding": 6,
            "titlePadding": 8,
        },
        "axisX": {"grid": False, "domain": True, "ticks": True, "tickSize": 4, "labelPadding": 4},
        "axisXDiscrete": {"grid": False, "domain": False, "ticks": False},
        "axisYDiscrete": {"grid": False, "labelLimit": 260},
        "legend": {
            **words,
            "labelColor": theme.text,
            "labelFontSize": 12,
            "titleFontSize": 11,
            "orient": "top",
            "direction": "horizontal",
            "symbolSize": 70,
            "symbolOpacity": 1,
            "symbolBaseFillColor": theme.soft,
            "symbolBaseStrokeColor": theme.soft,
            "symbolStrokeWidth": 2,
            "labelLimit": 260,
            "columnPadding": 16,
            "layout": {"top": {"anchor": "start", "direction": "vertical", "margin": 4}},
        },
        "line": {"strokeWidth": 2},
        "bar": {"fill": theme.categories[0]},
        "rule": {"color": theme.soft},
        "text": {"fontSize": 11},
        "range": {
            "category": list(theme.categories),
            "heatmap": list(theme.ramp),
            "diverging": list(theme.diverging),
            "ordinal": {"scheme": list(theme.graded)},
        },
        "style": {
            "dense": {"stroke": theme.text, "strokeDash": [5, 4], "strokeWidth": 1},
            "dense-band": {"color": theme.text, "fillOpacity": 0.07},
            "limit": {"stroke": theme.soft, "strokeWidth": 1},
            "above": {
                "color": theme.soft,
                "fontSize": 10.5,
                "align": "right",
                "baseline": "bottom",
                "dx": -2,
                "dy": -3,
            },
            "below": {"color": theme.soft, "fontSize": 10.5, "align": "right", "baseline": "top", "dx": -2, "dy": 4},
            "upper": {"color": theme.text, "fontSize": 12, "dy": -6},
            "lower": {"color": theme.text, "fillOpacity": 0.8, "fontSize": 10, "dy": 8},
            "planned": {"color": theme.text},
            "halo": {"stroke": theme.page, "strokeWidth": 0.8},
        },
    }
