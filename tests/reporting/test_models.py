"""The same tickets of several models: which rows the table has, and the figure."""

import pandas as pd
import pytest

from ltpipe.reporting.model_figures import models_figure
from ltpipe.reporting.tables import tickets
from ltpipe.reporting.tables.models import models_table
from ltpipe.runtime.frames import frame

DIFFERENCE = {"loss_difference": 0.1, "loss_difference_low": 0.05, "loss_difference_high": 0.15}
RETENTION = {"performance_retention": 0.9, "baseline_perplexity": 2.7, "perplexity": 3.0}
SIZES = {"large": 900, "small": 100, "middle": 300}


def ticket(criterion, model, sparsity=0.5, seed=None):
    axes = {"data": "text", "criterion": criterion, "scope": "row", "sparsity": sparsity, "seed": seed}
    return {**axes, "model": model, "parameters": SIZES[model], **DIFFERENCE, **RETENTION}


@pytest.fixture
def table():
    rows = [
        ticket(criterion, model, sparsity, seed)
        for model in SIZES
        for criterion, seed in (("wanda", None), ("random", 0), ("random", 1))
        for sparsity in (0.3, 0.5)
        if (model, sparsity) != ("large", 0.3)
    ]
    rows.append(ticket("taylor", "small"))
    return frame(rows, tickets.COLUMNS)


def test_only_tickets_that_several_models_have(table):
    found = models_table(table)
    assert "taylor" not in set(found["criterion"])
    wanda = found[(found["criterion"] == "wanda") & (found["sparsity"] == 0.5)]
    assert wanda["model"].tolist() == ["small", "middle", "large"], "by size"
    assert len(found) == 3 * (3 + 2)


def test_one_model_has_nothing_to_compare(table):
    assert not len(models_table(table[table["model"] == "small"]))
    assert models_figure(models_table(table[table["model"] == "small"])) is None


def test_the_figure(table):
    figure = models_figure(models_table(table))
    for words in ("row, 30%", "row, 50%", "parameters, log scale"):
        assert words in figure.svg


def test_seeds_are_averaged_without_an_interval(table):
    figure = models_figure(models_table(table))
    (view,) = figure.views
    data = pd.DataFrame([row for rows in view.spec["datasets"].values() for row in rows])
    drawn = data[data["criterion"] == "random"]
    assert set(drawn["seeds"]) == {2}
    assert drawn["low"].isna().all()
