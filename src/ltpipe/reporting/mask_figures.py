"""Figures of masks: the sparsity of each layer, and the overlap of masks."""

import re
from collections.abc import Sequence

import altair as alt
import pandas as pd

from ltpipe.reporting.cells import percent
from ltpipe.reporting.charts import PANEL, Axes, Figure, Panel, View, figure, rounded
from ltpipe.reporting.figures import in_order

EVEN = 0.01
"""Masks are left out of the figure if the sparsities of their tensors differ by less."""
MOST_PANELS, ALL_PANELS = 12, 24
"""Maximum number of heat maps of a model, and of all models together."""
CELL = 18
"""Height of a cell of a heat map, in pixels."""
MOST_MASKS, ALL_MASKS, FEWEST_MASKS = 24, 96, 6
"""Maximum rows of a model's matrix, of all matrices together, and the minimum of one matrix."""
LEAST_SHADED = 0.05
"""Smallest distance from chance with full colour; below it, noise would look like agreement."""
MOST_WRITTEN = 8
"""Matrices of more masks than this have no numbers in their cells."""
_NUMBER = re.compile(r"\.(\d+)\.")


def layers_figure(layers: pd.DataFrame) -> Figure:
    """Draw the sparsity of every tensor, one panel a criterion and scope, of every model.

    Of stochastic criteria the first seed is drawn, and the first panels that there is room for.

    Args:
        layers: the layers table, one row a mask and tensor, at least one.
    """
    layers = layers.assign(
        pruned=(1 - layers["kept"] / layers["weights"]).astype(float), seed=layers["seed"].fillna(-1)
    )
    axes = ["model", "criterion", "scope"]
    layers = layers[layers["seed"] == layers.groupby(axes)["seed"].transform("min")]
    masks = layers.groupby([*axes, "sparsity"])["pruned"]
    uneven = masks.transform("max") - masks.transform("min") >= EVEN
    layers = layers[uneven | ~uneven.any()]
    return figure(
        "layers",
        "Share of each tensor's weights that a mask removes, exact counts: a column is a block of the model, a row a "
        "tensor of the block. Masks that prune all tensors alike are omitted unless all do; of criteria that draw at "
        "random the first seed is shown.",
        layers,
        ["model"],
        _layers_view,
    )


def overlap_figure(overlap: pd.DataFrame) -> Figure | None:
    """Draw how far the Jaccard index of masks of one sparsity lies above chance, one matrix a model.

    Args:
        overlap: the overlap table.

    Returns:
        None if no two masks of one sparsity were compared.
    """
    alike = overlap[overlap["sparsity_a"] == overlap["sparsity_b"]]
    if alike.empty:
        return None
    return figure(
        "overlap",
        "Jaccard index of the kept weights of two masks of one sparsity (upper number), and that of independent masks "
        "of the same densities (lower number, chance). Colour is the difference: blue agrees more than chance. Masks "
        "that differ in criterion and scope at once are not compared; several seeds are averaged.",
        alike,
        ["model"],
        _overlap_view,
    )


def reconstruction_figure(errors: pd.DataFrame) -> Figure:
    """Draw the mean error of each block's tensors, one panel a scope and sparsity, of every model.

    Args:
        errors: the reconstruction table, at least one row.
    """
    blocks = errors["tensor"].astype(str).str.extract(_NUMBER, expand=False)
    place = ["model", "scope", "sparsity", "criterion"]
    means = errors.assign(block=blocks.fillna(-1).astype(int)).groupby([*place, "block"], observed=True)["error"].mean()
    return figure(
        "reconstruction",
        "Squared error of a tensor's outputs, relative to the outputs in the model pruned so far, on the calibration "
        "text, with the ticket's weights: the mean over the tensors of a block. Solvers that train blocks aim at the "
        "outputs of the dense model instead.",
        means.reset_index(),
        ["model"],
        _reconstruction_view,
    )


def _reconstruction_view(number: int, model: str, means: pd.DataFrame, views: int) -> View:
    solvers = sorted(means["criterion"].unique())
    axes = Axes.of(number, ("criterion", solvers), ("criterion", solvers), means)
    room = min(MOST_PANELS, max(1, ALL_PANELS // views))
    places = list(means.groupby(["scope", "sparsity"]))
    panels = []
    for (scope, sparsity), rows in places[:room]:
        base = alt.Chart(rounded(rows)).encode(
            x=alt.X("block:Q", title="block", axis=alt.Axis(tickMinStep=1)),
            y=alt.Y("error:Q", title="relative squared error"),
            color=axes.colour,
            tooltip=["criterion:N", "block:Q", alt.Tooltip("error:Q", format=".4f")],
        )
        panels.append(
            (base.mark_line() + base.mark_point(filled=True, size=20)).properties(
                title=f"{scope}, {sparsity:.0%}", **PANEL
            )
        )
    missing = len(places) - len(panels)
    return View(
        f"{model}{f', {missing} more in reconstruction.csv' if missing else ''}",
        alt.concat(*panels, columns=2).resolve_scale(color="shared"),
    )


def _layers_view(number: int, model: str, layers: pd.DataFrame, views: int) -> View:
    room = min(MOST_PANELS, max(1, ALL_PANELS // views))
    pairs = layers[["criterion", "scope"]].drop_duplicates()
    criteria, scopes = in_order(pairs["criterion"], pairs["scope"])
    shown = sorted(pairs.values.tolist(), key=lambda pair: (criteria.index(pair[0]), scopes.index(pair[1])))[:room]
    tensors = _tensors(layers["tensor"].unique())
    sparsity = _chooser(f"layers_{number}", layers["sparsity"])
    panels = []
    for criterion, scope in shown:
        rows = layers[(layers["criterion"] == criterion) & (layers["scope"] == scope)]
        panels.append(_heat(rows, tensors, sparsity).properties(title=f"{criterion}, {scope}"))
    chart = alt.concat(*panels, columns=2).add_params(sparsity).resolve_scale(color="shared")
    missing = len(pairs) - len(shown)
    more = f", {missing} more in layers.parquet" if missing else ""
    return View(f"{model}, {len(tensors)} tensors{more}", chart)


def _tensors(names: Sequence[str]) -> pd.DataFrame:
    """Place each tensor: the first number in its name is its block, the rest of the name its row."""
    places = []
    for index, name in enumerate(names):
        number = _NUMBER.search(name)
        kind = (name[number.end() :] if number else name).removesuffix(".weight")
        places.append({"tensor": index, "name": name, "block": int(number[1]) if number else -1, "kind": kind})
    return pd.DataFrame(places)


def _heat(layers: pd.DataFrame, tensors: pd.DataFrame, sparsity: alt.Parameter) -> alt.Chart:
    """One panel: a row of data a mask, with the shares of its tensors as a list."""
    numbers = dict(zip(tensors["name"], tensors["tensor"].tolist(), strict=True))
    masks = [
        {
            "sparsity": requested,
            "tensor": [numbers[name] for name in rows["tensor"]],
            "pruned": rows["pruned"].round(5).tolist(),
        }
        for requested, rows in layers.groupby("sparsity")
    ]
    kinds = tensors["kind"].unique().tolist()
    return (
        alt.Chart(alt.Data(values=masks))
        .transform_filter(f"datum.sparsity == {sparsity.name}")
        .transform_flatten(["tensor", "pruned"])
        .transform_lookup("tensor", alt.LookupData(tensors, "tensor", ["name", "block", "kind"]))
        .mark_rect()
        .encode(
            x=alt.X(
                "block:O",
                title="block",
                axis=alt.Axis(labelAngle=0, labelOverlap=True, labelExpr="datum.value < 0 ? '–' : datum.label"),
                scale=alt.Scale(paddingInner=0.06),
            ),
            y=alt.Y("kind:N", sort=kinds, title=None, scale=alt.Scale(paddingInner=0.06)),
            color=alt.Color(
                "pruned:Q",
                title="weights removed",
                scale=alt.Scale(domain=[0, 1], range="heatmap"),
                legend=alt.Legend(format="~%", gradientLength=180),
            ),
            tooltip=[
                alt.Tooltip("name:N", title="tensor"),
                alt.Tooltip("pruned:Q", title="weights removed", format=".2%"),
                alt.Tooltip("sparsity:Q", title="sparsity of the mask", format="~%"),
            ],
        )
        .properties(width=PANEL["width"], height=max(3, len(kinds)) * CELL)
    )


def _overlap_view(number: int, model: str, overlap: pd.DataFrame, views: int) -> View:
    room = min(MOST_MASKS, max(FEWEST_MASKS, ALL_MASKS // views))
    criteria, scopes = in_order(*([*overlap[f"{axis}_a"], *overlap[f"{axis}_b"]] for axis in ("criterion", "scope")))
    sides = [overlap[f"criterion_{side}"] + ", " + overlap[f"scope_{side}"] for side in ("a", "b")]
    cells = overlap.assign(first=sides[0], second=sides[1]).rename(columns={"sparsity_a": "sparsity"})
    keys = ["sparsity", "first", "second"]
    means = cells.groupby(keys)[["jaccard", "jaccard_chance"]].mean().assign(pairs=cells.groupby(keys).size())
    means = means.reset_index().assign(above=lambda frame: frame["jaccard"] - frame["jaccard_chance"])
    mirrored = means[means["first"] != means["second"]].rename(columns={"first": "second", "second": "first"})
    rows = rounded(pd.concat([means, mirrored], ignore_index=True))
    there = set(rows["first"])
    names = [name for criterion in criteria for scope in scopes if (name := f"{criterion}, {scope}") in there]
    missing = "" if len(names) <= room else f", the first {room} of {len(names)} criteria and scopes"
    pairs = sorted(zip(rows["first"].map(names.index), rows["second"].map(names.index), strict=True))
    leading = list(dict.fromkeys(place for pair in pairs for place in pair))[:room]  # two of them are a pair
    names = [names[place] for place in sorted(leading)]
    rows = rows[rows["first"].isin(names) & rows["second"].isin(names)]
    sparsity = _chooser(f"overlap_{number}", rows["sparsity"])
    return View(
        f"{model}, masks of one sparsity{missing}", alt.concat(_matrix(rows, names, sparsity)).add_params(sparsity)
    )


def _matrix(rows: pd.DataFrame, names: Sequence[str], sparsity: alt.Parameter) -> Panel:
    most = max(LEAST_SHADED, float(rows["above"].abs().max()))
    base = (
        alt.Chart(rows)
        .transform_filter(f"datum.sparsity == {sparsity.name}")
        .encode(
            x=alt.X("second:N", sort=names, title=None, axis=alt.Axis(labelAngle=-40)),
            y=alt.Y("first:N", sort=names, title=None),
            tooltip=[
                alt.Tooltip("first:N", title="mask"),
                alt.Tooltip("second:N", title="other mask"),
                alt.Tooltip("jaccard:Q", title="Jaccard index", format=".4f"),
                alt.Tooltip("jaccard_chance:Q", title="by chance", format=".4f"),
                alt.Tooltip("pairs:Q", title="pairs of masks"),
            ],
        )
    )
    cells = base.mark_rect().encode(
        color=alt.Color(
            "above:Q",
            title="Jaccard index minus chance",
            scale=alt.Scale(domain=[-most, most], range="diverging", interpolate="rgb"),
            legend=alt.Legend(format=".2f", gradientLength=180),
        )
    )
    written = []
    if len(names) <= MOST_WRITTEN:
        written = [
            base.mark_text(style=style).encode(text=alt.Text(f"{key}:Q", format=".2f"))
            for key, style in (("jaccard", "upper"), ("jaccard_chance", "lower"))
        ]
    height = len(names) * (2.4 if written else 1) * CELL
    return alt.layer(cells, *written).properties(width=min(1.6 * PANEL["width"], 4 * CELL * len(names)), height=height)


def _chooser(name: str, sparsities: pd.Series) -> alt.Parameter:
    """A list to choose a sparsity from; at first the one in the middle."""
    values = sorted(float(value) for value in sparsities.unique())
    bind = alt.binding_select(options=values, labels=[percent(value) for value in values], name="sparsity ")
    return alt.param(name=name, value=values[len(values) // 2], bind=bind)
