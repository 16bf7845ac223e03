"""What a configuration asks for, and which figures that gives."""

from copy import deepcopy
from pathlib import Path

import pytest
import yaml
from checkouts import ROOT

from ltpipe.runtime.errors import UserError
from ltpipe.workflow.config import check_config
from ltpipe.workflow.normal_form import as_text
from ltpipe.workflow.report import figures, files, folder, gathered, tables


def checked(**changes):
    base = {
        "models": {"m": {"source": "hub:a/b"}},
        "data": {"words": {"source": "hub:c/d"}},
        "grid": {"criteria": ["magnitude"], "sparsities": [0.5]},
        "threads": 2,
    }
    return check_config(deepcopy(base | changes))


def text(config):
    return as_text(config)


def test_a_study_written_otherwise_or_run_elsewhere_asks_for_the_same():
    grid = {"criteria": ["random", "magnitude"], "sparsities": [0.5, 0.25], "seeds": [1, 0]}
    other = {"seeds": [0, 1], "criteria": ["magnitude", "random"], "sparsities": [0.250, 0.50]}
    asked = text(checked(grid=grid))
    assert text(checked(grid=other)) == asked
    assert text(checked(grid=grid, threads="auto", evaluate={"device_memory": 3})) == asked
    assert text(checked(grid=grid, evaluate={"num_sequences": 3})) != asked
    assert text(checked(grid=grid | {"seeds": [0]})) != asked


def test_what_was_asked_for_can_be_asked_again():
    config = checked()
    before = deepcopy(config)
    again = check_config(yaml.safe_load(text(config)))
    assert config == before, "the configuration itself is left as it is"
    assert text(again) == text(config)
    assert again["evaluate"] == config["evaluate"]


def test_the_text_has_no_anchors_and_line_breaks_stay_on_their_line():
    shared: list[str] = []
    written = as_text({"models": {"a": {"exclude": shared}, "b": {"exclude": shared, "separator": "\n\n"}}})
    assert written == 'models:\n  a:\n    exclude: []\n  b:\n    exclude: []\n    separator: "\\n\\n"\n'


@pytest.mark.parametrize(
    ("grid", "compared"),
    [
        ({"criteria": ["magnitude"], "sparsities": [0.2, 0.5]}, False),
        ({"criteria": ["magnitude", "random"], "sparsities": [0.5], "scopes": ["layer"]}, True),
        ({"criteria": ["magnitude"], "sparsities": [0.5], "scopes": ["layer", "global"]}, True),
        ({"criteria": ["magnitude"], "sparsities": [0.4], "scopes": ["layer", "2of4"]}, False),
        ({"criteria": ["random"], "sparsities": [0.5], "seeds": [0, 1]}, True),
    ],
)
def test_masks_are_compared_where_two_of_one_sparsity_differ_in_one_respect(grid, compared):
    names = [drawn.figure for drawn in figures(checked(grid=grid))]
    assert names == ["tradeoff", "critical", *["overlap"] * compared, "layers", "costs"]


def test_scopes_with_a_sparsity_of_their_own_have_no_critical_one():
    names = [
        drawn.figure
        for drawn in figures(checked(grid={"criteria": ["magnitude"], "sparsities": [0.5], "scopes": ["2of4"]}))
    ]
    assert names == ["tradeoff", "layers", "costs"]


def test_studies_have_the_figures_of_what_they_train(tmp_path: Path):
    (tmp_path / "digits.csv").write_text("1,2")
    study = {
        "task": {
            "kind": "images",
            "model": "lenet-300-100",
            "source": str(tmp_path / "digits.csv"),
            "validation": 1,
            "test": 1,
        },
        "train": {"optimizer": "adam", "learning_rate": 0.01, "iterations": 20, "batch_size": 10},
        "levels": 1,
    }
    alone = check_config({"imp": {"small": deepcopy(study)}})
    assert [drawn.figure for drawn in figures(alone)] == ["levels", "costs"]
    more = study | {"branches": {"order": 1}, "early_bird": {"sparsities": [0.5], "every": 5}}
    watched = check_config({"imp": {"small": more}})
    assert [drawn.figure for drawn in figures(watched)] == ["levels", "connectivity", "early_birds", "costs"]


def test_what_is_in_the_report_of_snakemake_has_a_caption():
    listed = files(checked(grid={"criteria": ["magnitude", "random"], "sparsities": [0.5]}))
    for name in [name for name, category in listed.items() if category]:
        assert (ROOT / "workflow/report" / name).with_suffix(".rst").read_text().strip()
    assert {name for name, category in listed.items() if category} > {"tickets.csv", "tradeoff.svg", "index.html"}


def test_the_report_has_the_tables_of_what_runs_and_no_others():
    grid = {"criteria": ["magnitude"], "sparsities": [0.5]}
    alone, more = checked(grid=grid), checked(grid=grid, robustness={"perturbations": ["int4"]}, simulation={})
    assert {table.name for table in tables(alone)} == {
        "tickets", "curves", "comparisons", "overlap", "layers", "validation", "costs",
    }  # fmt: skip
    assert {table.name for table in tables(more)} - {table.name for table in tables(alone)} == {
        "robustness", "simulations",
    }  # fmt: skip
    solved = checked(
        data={"t": {"source": "hub:c/d"}, "c": {"source": "hub:c/e"}}, score={"data": "c"},
        grid={**grid, "criteria": ["sparsegpt"], "scopes": ["row"]},
    )  # fmt: skip
    assert {table.name for table in tables(solved)} - {table.name for table in tables(alone)} == {"reconstruction"}
    assert set(gathered(more)) - set(gathered(alone)) == {
        f"results/analysis/tables/m/{name}.parquet" for name in ("robustness", "simulations")
    }


def test_a_study_with_a_name_has_a_folder_of_its_own():
    assert folder(checked()) == "results/report"
    assert folder(checked(name="today")) == "results/report/today"
    for name in ("a/b", "..", "a.csv", "SHA256SUMS", "", "x" * 101):
        with pytest.raises(UserError, match=r"^name: "):
            checked(name=name)
