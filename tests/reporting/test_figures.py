"""Figures: what is drawn, that it is drawn alike, and that it can be seen."""

import json
import math
import re
from functools import cache
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import vl_convert
from reports import (
    BIRDS,
    LEVELS,
    LINES,
    TRAININGS,
    curves_frame,
    frame,
    layers_frame,
    overlap_frame,
    seeds,
    tables,
    ticket,
    tickets_frame,
)  # fmt: skip

from ltpipe.reporting import charts, cost_figures, figures, mask_figures
from ltpipe.reporting.charts import Figure, log_ticks
from ltpipe.reporting.cost_figures import costs_figure
from ltpipe.reporting.figures import critical_figure, tradeoff_figure
from ltpipe.reporting.mask_figures import layers_figure, overlap_figure
from ltpipe.reporting.tables.connectivity import connectivity_table
from ltpipe.reporting.tables.early_birds import early_birds_table
from ltpipe.reporting.tables.levels import levels_table
from ltpipe.reporting.theme import DARK, LIGHT
from ltpipe.reporting.training_figures import connectivity_figure, early_birds_figure, levels_figure
from ltpipe.reporting.trainings import Trainings

HEIGHT = charts.PANEL["height"]
MADE = {
    "tradeoff": lambda: tradeoff_figure(tickets_frame()),
    "critical": lambda: critical_figure(curves_frame()),
    "layers": lambda: layers_figure(layers_frame()),
    "overlap": lambda: overlap_figure(overlap_frame()),
    "costs": lambda: costs_figure(tables()["costs"]),
    "levels": lambda: levels_figure(LEVELS),
    "connectivity": lambda: connectivity_figure(connectivity_table(LINES)),
    "early_birds": lambda: early_birds_figure(early_birds_table(BIRDS)),
}
FIGURES = {name: cache(make) for name, make in MADE.items()}  # made once for all tests that look at them


def marks(figure: Figure, kind: str) -> list[list[tuple[float, float]]]:
    """Points of every path of a kind (line, symbol, rule, area) in the SVG document, as its panel counts them."""
    found = []
    for group in ElementTree.fromstring(figure.svg).iter("{http://www.w3.org/2000/svg}g"):
        if f"mark-{kind} role-mark" in group.get("class", ""):
            for path in group:
                place = path.get("transform") or path.get("d")
                numbers = [float(number) for number in re.findall(r"-?\d+\.?\d*(?:e-?\d+)?", place)]
                found.append(list(zip(numbers[::2], numbers[1::2], strict=False)))
    return found


def rows(figure: Figure, view: int = 0) -> pd.DataFrame:
    """All rows of the data of a view."""
    (found,) = (values for values in figure.views[view].spec["datasets"].values() if len(values[0]) > 4)
    return pd.DataFrame(found)


@pytest.mark.parametrize("name", FIGURES)
def test_equal_data_gives_equal_bytes_and_a_valid_specification(name):
    first, second = FIGURES[name](), MADE[name]()
    assert first.name == name
    assert second.svg == first.svg
    assert second.png == first.png
    for view in first.views:
        view.chart.to_dict(validate=True)
        json.dumps(view.spec, allow_nan=False)


def test_other_data_gives_another_figure():
    changed = tickets_frame().assign(performance_retention=lambda table: table["performance_retention"] * 0.9)
    assert tradeoff_figure(changed).svg != FIGURES["tradeoff"]().svg


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_what_is_drawn_stands_out_from_the_page(theme):
    """WCAG 2: 4.5 to 1 for words, 3 to 1 for what is drawn."""

    def luminance(colour):
        parts = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    def contrast(one, other):
        low, high = sorted((luminance(one), luminance(other)))
        return (high + 0.05) / (low + 0.05)

    for colour in (theme.text, theme.soft, theme.accent, theme.win):
        assert contrast(colour, theme.page) >= 4.5
        assert contrast(colour, theme.raised) >= 4.5
    for colour in (*theme.categories, *theme.graded):
        assert contrast(colour, theme.page) >= 3, colour
    for colour in theme.diverging:  # numbers are written on these
        assert contrast(theme.text, colour) >= 4.5, colour


def test_lines_are_means_over_seeds_with_the_seeds_as_points():
    """The first panel: retention from 0 at the bottom to 1 at the top."""
    figure = FIGURES["tradeoff"]()
    lines = marks(figure, "line")
    assert len(lines) == 4 * 2 * 3  # panels; from the dense model, and on; magnitude in two scopes, random in one
    heights = [[round(1 - y / HEIGHT, 3) for _, y in line] for line in lines[:6]]
    assert sorted(heights[3:]) == [[0.55, 0.4], [0.95, 0.85], [0.98, 0.92, 0.25]]
    assert sorted(heights[:3]) == [[1, 0.55], [1, 0.95], [1, 0.98]]
    assert {line[0][0] for line in lines[:3]} == {0}
    points = [round(1 - y / HEIGHT, 3) for ((_, y),) in marks(figure, "symbol")[:11]]
    assert sorted(points) == sorted(tickets_frame()["performance_retention"])


def test_bars_are_the_intervals_of_every_ticket():
    table = tickets_frame()
    drawn = rows(FIGURES["tradeoff"]())
    for measure, low, high in (
        ("performance_retention", table.performance_retention_low, table.performance_retention_high),
        ("loss", table.baseline_loss + table.loss_difference_low, table.baseline_loss + table.loss_difference_high),
        ("perplexity", *(np.exp(table.baseline_loss + table[f"loss_difference_{end}"]) for end in ("low", "high"))),
        ("accuracy", *(table.baseline_accuracy + table[f"accuracy_difference_{end}"] for end in ("low", "high"))),
    ):
        np.testing.assert_allclose(drawn[f"{measure}_low"], low, rtol=1e-5)
        np.testing.assert_allclose(drawn[f"{measure}_high"], high, rtol=1e-5)
    text = json.dumps(FIGURES["tradeoff"]().views[0].spec)
    for measure in ("performance_retention", "loss", "perplexity", "accuracy"):
        assert f'"y2": {{"field": "{measure}_high"}}' in text


def test_random_controls_do_not_squash_the_panels_of_losses():
    """They leave the panel at its top, which says how high they are; they stay where they are not far above."""
    near = [ticket(retention, sparsity=sparsity) for sparsity, retention in ((0.3, 0.95), (0.5, 0.9))]
    far = tradeoff_figure(frame(*near, *seeds([0.97, 0.5, 0.4]))).views[0].spec["concat"]
    assert [panel["title"] for panel in (far[0], far[3])] == [{"text": "Retention"}, {"text": "Accuracy"}]
    assert far[1]["title"]["subtitle"] == "▲ off the scale: random, 6.00 to 7.50"
    assert far[2]["title"]["subtitle"] == "▲ off the scale: random, 403 to 1,808"
    points, arrows = far[1]["layer"][0], far[1]["layer"][-1]
    top = points["encoding"]["y"]["scale"]["domainMax"]
    assert 3 / 0.9 < top < 1.15 * 3 / 0.9
    assert {"filter": f"datum.loss <= {top}"} in points["transform"]
    assert arrows["transform"] == [{"filter": f"datum.loss > {top}"}]
    assert arrows["mark"]["shape"] == "triangle-up"
    assert all(layer["mark"].get("clip") for layer in far[1]["layer"] if layer["mark"]["type"] in ("line", "bar"))
    for tickets in (frame(*near, *seeds([0.9, 0.88])), frame(*near), frame(*seeds([0.9, 0.2]))):
        panels = tradeoff_figure(tickets).views[0].spec["concat"]
        assert not any("subtitle" in panel["title"] for panel in panels)
        assert not any("domainMax" in panel["layer"][0]["encoding"]["y"]["scale"] for panel in panels)


def test_the_loss_has_a_log_scale_only_where_it_spans_more_than_fourfold():
    def scale(figure):
        return figure.views[0].spec["concat"][1]["layer"][0]["encoding"]["y"]["scale"].get("type")

    assert tickets_frame().loss.max() == 4 * 3.0
    assert scale(FIGURES["tradeoff"]()) is None
    assert scale(tradeoff_figure(pd.concat([tickets_frame(), frame(ticket(0.2, sparsity=0.9))]))) == "log"
    assert log_ticks(3, 60) == [3, 5, 10, 20, 30, 50]
    assert log_ticks(20, 160_000) == [100, 1000, 10_000, 100_000]


def test_each_model_and_text_has_a_view_and_lines_look_the_same_in_all():
    alone = tickets_frame().query("scope == 'layer'").assign(model="$_{x$", tokens=5_000)
    figure = tradeoff_figure(pd.concat([tickets_frame(), alone]))
    assert [view.title for view in figure.views] == [
        "$_{x$ on wiki, 5,000 tokens evaluated",
        "org/small on wiki, 16,368 tokens evaluated",
    ]
    looks = []
    for view in figure.views:
        encoding = view.spec["concat"][0]["layer"][0]["encoding"]
        looks.append((encoding["color"]["scale"], encoding["shape"]["scale"]))
    assert looks[0] == looks[1]
    assert looks[0][0] == {"domain": ["magnitude", "random"], "range": "category"}
    assert figure.views[0].spec["concat"][0]["layer"][0]["encoding"]["color"]["legend"]["values"] == ["magnitude"]
    names = [parameter["name"] for view in figure.views for parameter in view.spec["params"]]
    assert len(names) == len(set(names)) == 4


@pytest.mark.parametrize("name", ["tradeoff", "levels"])
def test_both_legends_can_be_clicked(name):
    """Vega-Lite says nothing of a selection that is bound to a layer without the legend: a click would do nothing."""
    legends = vl_convert.vegalite_to_vega(FIGURES[name]().views[0].spec)["legends"]
    assert len(legends) == 2
    assert all(legend["encode"]["symbols"]["interactive"] for legend in legends)


def test_infinite_losses_and_single_points_can_be_drawn():
    extreme = frame(ticket(0.0, sparsity=0.99), ticket(math.nan, sparsity=0.9), ticket(0.95))
    assert len(marks(tradeoff_figure(extreme), "symbol")) == 2 + 1 + 1 + 3  # an infinite loss has no place
    assert tradeoff_figure(extreme.iloc[2:]).png


def test_critical_sparsities_without_an_end_are_at_the_largest():
    drawn = rows(FIGURES["critical"]()).set_index("name")
    holds, falls = drawn.loc["magnitude, layer"], drawn.loc["magnitude, global"]
    assert holds[["last_winning", "estimate", "beyond"]].tolist() == [0.7, 0.7, True]
    assert holds[["estimate_low", "estimate_high"]].tolist() == [0.66, 0.7]
    assert falls[["last_winning", "first_losing", "estimate", "beyond"]].tolist() == [0.5, 0.7, 0.51, False]
    alone = rows(critical_figure(curves_frame(area_low=math.nan)))
    assert alone[["estimate_low", "estimate_high"]].isna().all(axis=None)
    assert alone["first_losing"].notna().any(), "brackets are measured, whatever the number of sequences"


def test_layers_stand_by_block_and_kind_and_even_masks_only_if_there_are_no_others():
    figure = FIGURES["layers"]()
    (panel,) = figure.views[0].spec["concat"]
    assert panel["title"] == "magnitude, global"
    masks = {mask["sparsity"]: mask for mask in figure.views[0].spec["data"]["values"]}
    assert masks[0.5]["pruned"] == [0.425, 0.425, 0.475, 0.475, 0.525, 0.525, 0.575, 0.575]
    (tensors,) = figure.views[0].spec["datasets"].values()
    assert tensors[5] == {"tensor": 5, "name": "model.layers.2.mlp.up_proj.weight", "block": 2, "kind": "mlp.up_proj"}
    assert len(marks(figure, "rect")) == 8
    even = layers_figure(layers_frame(uneven=0))
    assert [panel["title"] for panel in even.views[0].spec["concat"]] == ["magnitude, global", "magnitude, layer"]


def test_the_overlap_is_a_matrix_of_means_over_seeds():
    drawn = rows(FIGURES["overlap"]()).set_index(["sparsity", "first", "second"]).sort_index()
    pair = drawn.loc[(0.5, "magnitude, global", "random, global")]
    assert pair[["jaccard", "jaccard_chance", "above", "pairs"]].tolist() == pytest.approx([0.33, 0.33, 0, 2])
    assert drawn.loc[(0.5, "random, global", "magnitude, global")].equals(pair)
    assert drawn.loc[(0.3, "random, global", "random, global"), "pairs"] == 1
    assert (0.3, "magnitude, layer", "random, global") not in drawn.index
    assert overlap_figure(overlap_frame().query("sparsity_a != sparsity_b")) is None


@pytest.mark.parametrize(("jaccard", "most"), [(0.3301, 0.05), (None, 0.47)])
def test_noise_has_hardly_any_colour(jaccard, most):
    overlap = overlap_frame() if jaccard is None else overlap_frame().assign(jaccard=jaccard)
    panel = overlap_figure(overlap).views[0].spec["concat"][0]
    cells = panel["layer"][0]
    assert cells["mark"]["type"] == "rect"
    assert cells["encoding"]["color"]["scale"]["domain"] == pytest.approx([-most, most])


def test_costs_have_a_panel_of_memory_only_where_someone_planned_it():
    costs = tables()["costs"]
    assert rows(costs_figure(costs))["planned"].tolist()[0] == 128
    assert len(costs_figure(costs).views[0].spec["concat"]) == 2
    assert len(costs_figure(costs[costs["stage"] == "training"]).views[0].spec["concat"]) == 1


def test_costs_name_the_model_at_each_bar_only_where_there_are_several():
    costs = tables()["costs"]
    assert rows(costs_figure(costs))["name"].tolist() == ["ticket evaluation, org/small on wiki", "training, lenet"]
    alone = costs_figure(costs[costs["model"] == "org/small"])
    assert rows(alone)["name"].tolist() == ["ticket evaluation"]
    assert alone.views[0].title == "All stages, org/small on wiki"


def test_a_large_figure_stands_as_an_image_of_dots_on_the_page(monkeypatch):
    figure = FIGURES["critical"]()
    assert figure.image.startswith("data:image/svg+xml;base64,")
    monkeypatch.setattr(charts, "LARGEST_SVG", 1000)
    assert figure.image.startswith("data:image/png;base64,iVBOR")


# Trainings


def test_levels_have_the_means_and_intervals_of_the_table():
    figure = FIGURES["levels"]()
    assert [view.title for view in figure.views] == ["lenet, 5 replicates"]
    drawn = rows(figure)
    assert len(drawn) == len(LEVELS)
    for measure in ("test_accuracy", "early_stop_iteration"):
        for bound in ("", "_low", "_high"):
            np.testing.assert_allclose(drawn[f"{measure}{bound}"], LEVELS[f"{measure}{bound}"], rtol=1e-5)
    legend = figure.views[0].spec["concat"][0]["layer"][0]["encoding"]
    assert legend["color"]["legend"]["values"] == [
        "ticket", "re-initialised", "shuffled mask", "mask transplanted from another training",
    ]  # fmt: skip
    assert legend["shape"]["legend"]["values"] == ["own mask", "a", "b"]
    scales = [panel["layer"][0]["encoding"]["y"]["scale"] for panel in figure.views[0].spec["concat"]]
    assert scales == [{"zero": False}, {"zero": True}]
    x = legend["x"]
    assert (x["scale"]["type"], x["scale"]["reverse"]) == ("log", True)
    assert drawn[drawn["dense"]]["level"].tolist() == [0]
    # The dense model's line and band stand at its value, all others near their weights remaining, none on another.
    assert len(set(drawn["beside"])) == len(drawn)
    assert (np.log(drawn["beside"] / drawn["weights_remaining"]).abs() < 0.13 * np.log(1.25)).all()
    assert drawn.sort_values("beside")["level"].is_monotonic_decreasing


def test_a_single_replicate_has_no_band_and_kinds_keep_their_colours():
    alone = levels_table(Trainings([one for one in TRAININGS.records if one.replicate == 0]))
    few = levels_figure(alone[alone["branch"].isin(["ticket", "shuffled"])])
    assert rows(few)["test_accuracy_low"].isna().all()
    colours = [
        figure.views[0].spec["concat"][0]["layer"][0]["encoding"]["color"]["scale"]
        for figure in (few, FIGURES["levels"]())
    ]
    assert colours[0] == colours[1]
    assert few.views[0].title == "lenet, 1 replicate"


@pytest.mark.parametrize(
    ("levels", "ticks"), [(1, [100]), (2, [100, 80]), (13, [100, 64.1, 41.1, 26.3, 16.9, 10.9, 7])]
)
def test_levels_have_ticks_that_keep_apart(levels, ticks):
    spec = levels_figure(LEVELS[LEVELS["level"] < levels]).views[0].spec
    values = spec["concat"][0]["layer"][0]["encoding"]["x"]["axis"]["values"]
    assert [round(100 * value, 1) for value in values] == ticks


def test_lines_between_children_have_their_mean():
    lines = marks(FIGURES["connectivity"](), "line")
    assert len(lines) == 2 * (2 + 1)
    middle = [line[15][1] for line in lines]
    thin, mean = np.reshape(sorted(middle[:4]), (2, 2)).mean(axis=1), sorted(middle[4:])  # two levels, two replicates
    np.testing.assert_allclose(thin, mean, atol=0.01)


def test_stars_are_where_masks_had_converged():
    figure = FIGURES["early_birds"]()
    drawn = rows(figure)
    assert drawn[drawn["iteration"] == drawn["converged"]]["distance"].tolist() == [0.05, 0.05]
    assert len(marks(figure, "symbol")) == 8 + 2  # two of three masks of each have a window
    assert json.dumps(figure.views[0].spec).count('"datum.iteration == datum.converged"') == 1
    assert len(marks(figure, "rule")) == 1


def test_each_study_has_a_view():
    both = pd.concat([LEVELS, LEVELS.assign(training="$_{x$")])
    assert [view.title for view in levels_figure(both).views] == ["$_{x$, 5 replicates", "lenet, 5 replicates"]


def rows_of(view):
    """Rows of data that a view holds."""
    return [row for rows in view.spec["datasets"].values() for row in rows]


def test_figures_of_large_studies_are_bounded_and_say_so(monkeypatch):
    monkeypatch.setattr(charts, "VIEWS", 2)
    monkeypatch.setattr(mask_figures, "ALL_PANELS", 2)
    monkeypatch.setattr(cost_figures, "ROWS", 3)
    models = ["m0", "m1", "m2"]
    table, layers = pd.concat([tickets_frame().assign(model=model) for model in models]), layers_frame(uneven=0.05)
    many = {
        "tradeoff": tradeoff_figure(table),
        "critical": critical_figure(pd.concat([curves_frame(model=model) for model in models])),
        "layers": layers_figure(pd.concat([layers.assign(model=model) for model in models])),
        "overlap": overlap_figure(pd.concat([overlap_frame().assign(model=model) for model in models])),
    }
    for name, figure in many.items():
        assert [view.title.split()[0].strip(",") for view in figure.views] == models[:2], name
        assert "Only the first 2 of 3 views" in figure.caption, name
    assert [len(view.spec["concat"]) for view in many["layers"].views] == [1, 1]
    costs = costs_figure(pd.concat([tables()["costs"]] * 2))
    assert costs.views[0].title == "The first 3 of 4, by stage"
    assert len(rows_of(costs.views[0])) == 3
    assert "first" not in costs_figure(tables()["costs"]).views[0].title


def test_of_very_many_tickets_whole_curves_are_drawn_those_that_retain_most(monkeypatch):
    monkeypatch.setattr(figures, "POINTS", 7)
    monkeypatch.setattr(figures, "ROWS", 2)
    monkeypatch.setattr(mask_figures, "ALL_MASKS", 3)
    monkeypatch.setattr(mask_figures, "FEWEST_MASKS", 2)
    criteria = ["a", "b", "c", "d"]
    rows = [ticket(0.5 + index / 10, criterion=name, sparsity=cut) for index, name in enumerate(criteria)
            for cut in (0.1, 0.2, 0.3)]  # fmt: skip
    (view,) = tradeoff_figure(frame(*rows)).views
    assert sorted({row["criterion"] for row in rows_of(view) if "criterion" in row}) == ["c", "d"]
    assert "6 of 12 tickets" in view.title
    curves = pd.concat([curves_frame().iloc[:1].assign(criterion=name) for name in criteria])
    (view,) = critical_figure(curves.assign(last_winning_sparsity=[0.1, 0.4, 0.3, 0.2])).views
    assert {row["criterion"] for row in rows_of(view)} == {"b", "c"}
    assert "the largest 2 of 4" in view.title
    pairs = overlap_frame().iloc[:1]
    (view,) = overlap_figure(pd.concat([pairs.assign(criterion_a=a, criterion_b="e") for a in criteria])).views
    assert {row["first"] for row in rows_of(view)} == {"a, global", "b, global", "e, layer"}
    assert "the first 3 of 5 criteria and scopes" in view.title
