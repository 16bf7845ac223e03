"""The report of studies: figures, page, terminal, and the stage that makes them without any one-shot ticket."""

import io
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from studies import like_the_paper, line, record, study

from ltpipe.analysis.early_bird import EarlyBird
from ltpipe.reporting.figures import save_figure
from ltpipe.reporting.findings import findings_table
from ltpipe.reporting.report import Sources, write_report
from ltpipe.reporting.training_figures import connectivity_figure, early_birds_figure, levels_figure
from ltpipe.reporting.training_terminal import finding_lines, levels_summary, read_findings, read_levels
from ltpipe.reporting.trainings import Trainings, connectivity_table, early_birds_table, levels_table
from ltpipe.runtime.errors import UserError

BRANCHES = ("ticket", "reinitialised-1", "reinitialised-2", "shuffled-1", "transplanted-a", "transplanted-b")
TRAININGS = Trainings(list(study(like_the_paper, 5, range(13), BRANCHES)))
LEVELS = levels_table(TRAININGS)
LINES = [
    line(replicate, 0.005 + 0.001 * replicate + 0.03 * (level > 0), level) for replicate in (0, 1) for level in (0, 2)
]
BIRDS = [
    EarlyBird("lenet", replicate, sparsity, "hamming", 0.1, 2, 1, False, (5, 10, 15), (None, 0.3, value), converged)
    for sparsity, value, converged in (("0.5", 0.05, 15), ("0.9", 0.2, None))
    for replicate in (0, 1)
]
FIGURES = {
    "levels": lambda: levels_figure(LEVELS),
    "connectivity": lambda: connectivity_figure(connectivity_table(LINES)),
    "early_birds": lambda: early_birds_figure(early_birds_table(BIRDS)),
}


def drawn(axes, colour, marker=None):
    """Lines of a colour, as arrays of points."""
    found = [one for one in axes.lines if one.get_color() == colour and marker in (None, one.get_marker())]
    return [np.asarray(one.get_xydata(), float) for one in found]


# Figures


@pytest.mark.parametrize("name", FIGURES)
def test_equal_data_gives_equal_bytes(name, tmp_path):
    save_figure(FIGURES[name](), tmp_path / "1.png", tmp_path / "1.svg")
    save_figure(FIGURES[name](), tmp_path / "2.svg", tmp_path / "2.png")
    for suffix in ("png", "svg"):
        assert (tmp_path / f"1.{suffix}").read_bytes() == (tmp_path / f"2.{suffix}").read_bytes()
    assert "<metadata>" not in (tmp_path / "1.svg").read_text()


@pytest.mark.parametrize(("panel", "column", "scale"), [(0, "test_accuracy", 100), (1, "early_stop_iteration", 1)])
def test_lines_and_bands_are_the_means_and_intervals_of_the_table(panel, column, scale):
    figure = levels_figure(LEVELS)
    axes = figure.axes[panel]
    assert axes.get_xscale() == "log"
    assert axes.xaxis.get_inverted()
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == [
        "ticket", "re-initialised", "shuffled mask", "mask transplanted from a", "mask transplanted from b",
        "dense model",
    ]  # fmt: skip
    (points,) = drawn(axes, "#D55E00")
    rows = LEVELS[LEVELS["branch"] == "reinitialised"].sort_values("weights_remaining")
    np.testing.assert_allclose(points, np.stack([rows["weights_remaining"], scale * rows[column]], axis=1))
    dense = LEVELS[LEVELS["level"] == 0].iloc[0]
    (horizontal,) = drawn(axes, "#222222")
    assert set(horizontal[:, 1]) == {scale * dense[column]}
    bands, bars = axes.collections[2:4]  # a band and bars for each branch
    low, high = (scale * rows[f"{column}_{bound}"] for bound in ("low", "high"))
    edges = np.concatenate([path.vertices[:, 1] for path in bands.get_paths()])
    assert (edges.min(), edges.max()) == pytest.approx((low.min(), high.max()))
    ends = np.array([segment for segment in bars.get_segments() if len(segment)])
    np.testing.assert_allclose(ends[:, :, 1], np.stack([low.dropna(), high.dropna()], axis=1))


def test_a_single_replicate_has_no_band_and_kinds_keep_their_colours():
    alone = levels_table(Trainings([one for one in TRAININGS.records if one.replicate == 0]))
    few = levels_figure(alone[alone["branch"].isin(["ticket", "shuffled"])]).axes[0]
    assert all(np.isnan(path.vertices[:, 1]).all() for part in few.collections for path in part.get_paths())
    assert not few.patches
    assert len(drawn(few, "#009E73")) == 1
    assert "1 replicate" in few.get_title(loc="left")


@pytest.mark.parametrize(
    ("levels", "ticks"), [(1, [100]), (2, [100, 80]), (13, [100, 64.1, 41.1, 26.3, 16.9, 10.9, 7])]
)
def test_levels_have_ticks_that_keep_apart(levels, ticks):
    axes = levels_figure(LEVELS[LEVELS["level"] < levels]).axes[0]
    assert (100 * axes.get_xticks()).round(1).tolist() == ticks


def test_the_line_has_its_children_and_their_mean():
    axes = connectivity_figure(connectivity_table(LINES)).axes[0]
    assert len(axes.lines) == 2 * (2 + 1)
    thick = [one for one in axes.lines if one.get_linewidth() == 2]
    expected = [100 * np.mean([one.errors for one in LINES if one.level == level], axis=0) for level in (0, 2)]
    for drawn_line, values in zip(thick, expected, strict=True):
        np.testing.assert_allclose(drawn_line.get_ydata(), values)


def test_stars_are_where_masks_had_converged():
    axes = early_birds_figure(early_birds_table(BIRDS)).axes[0]
    stars = [tuple(one.get_xydata()[0]) for one in axes.lines if one.get_marker() == "*" and len(one.get_xydata())]
    assert stars == [(15, 0.05)] * 2
    assert 0.1 in [one.get_ydata()[0] for one in axes.lines if one.get_linestyle() == "--"]
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), [np.nan, 0.3, 0.05])


def test_each_study_has_a_row_and_names_are_no_formulas():
    both = pd.concat([LEVELS, LEVELS.assign(study="$_{x$")])
    figure = levels_figure(both)
    assert [axes.get_title(loc="left") for axes in figure.axes[::2]] == ["$_{x$, 5 replicates", "lenet, 5 replicates"]


# Terminal


def test_the_terminal_table_fits_in_80_characters_and_keeps_every_digit():
    console = Console(width=80, file=io.StringIO())
    console.print(levels_summary("lenet", LEVELS[LEVELS["donor"].isna()]))
    lines = console.file.getvalue().splitlines()
    assert lines[1].split() == ["level", "weights", "branch", "n", "accuracy,", "%", "−", "dense", "early", "stop"]
    row = LEVELS[(LEVELS["level"] == 7) & (LEVELS["branch"] == "ticket")].iloc[0]
    half = 100 * (row["test_accuracy_minus_dense_high"] - row["test_accuracy_minus_dense"])
    assert f"{100 * row['test_accuracy_minus_dense']:+.2f} ±{half:.2f}" in next(one for one in lines if "21.1%" in one)
    assert lines[3].split()[:5] == ["0", "100.0%", "dense", "model", "5"]
    assert not any("…" in one for one in lines)


def test_findings_in_the_terminal():
    texts = [one.plain for one in finding_lines(findings_table(TRAININGS, LINES))]
    assert texts[0].startswith("\nyes: lenet: Tickets are at most 0.2 points less accurate")
    assert "(5 replicates)" in texts[0]


# The stage


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Sources:
    folder = tmp_path_factory.mktemp("imp")

    def written(kind, made):
        paths = [folder / f"{kind}-{index}.json" for index in range(len(made))]
        for path, one in zip(paths, made, strict=True):
            one.write(path)
        return tuple(paths)

    return Sources(
        records=written("r", TRAININGS.records),
        connectivities=written("c", LINES),
        early_birds=written("e", BIRDS),
    )


@pytest.fixture(scope="module")
def report(files, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_report(files, folder)
    return folder


def test_a_report_of_studies_alone(report):
    csv, both = ("overlap", "simulations", "validation"), (
        "comparisons", "connectivity", "curves", "early_birds", "findings", "levels", "robustness", "tickets",
        "trainings",
    )  # fmt: skip
    assert {path.name for path in report.iterdir()} == {
        "index.html",
        *(f"{name}.csv{digest}" for name in (*csv, *both) for digest in ("", ".sha256")),
        *(f"{name}.parquet" for name in both),
        *(f"{name}.{kind}" for name in FIGURES for kind in ("png", "svg")),
    }
    pd.testing.assert_frame_equal(read_levels(report / "levels.csv"), LEVELS, check_exact=True)
    assert read_findings(report / "findings.csv")["holds"].tolist()[0] == "yes"
    assert len(pd.read_csv(report / "tickets.csv")) == 0


def test_the_page_shows_findings_first_and_nothing_empty(report):
    html = (report / "index.html").read_text()
    headings = re.findall(r"<h2[^>]*>(.*?)</h2>", html)
    assert headings == [
        "Findings", "Levels of iterative magnitude pruning", "Linear mode connectivity", "Early-bird tickets",
        "Provenance",
    ]  # fmt: skip
    assert html.count("<img ") == html.count("data:image/svg+xml;base64,") == 3
    assert "<h1>Lottery tickets of lenet</h1>" in html
    for absent in ('verdict"', "There are no tickets", "All tickets", "<script>", "one shot"):
        assert absent not in html
    assert "task of lenet" in html
    assert "mask of lenet" not in html  # not one for all trainings
    assert f"<dt>trainings of lenet</dt><dd>{len(TRAININGS.records)}</dd>" in html


def test_records_alone_give_no_lines_and_no_birds(files, tmp_path):
    write_report(replace(files, connectivities=(), early_birds=()), tmp_path)
    assert {path.stem for path in tmp_path.glob("*.png")} == {"levels"}
    assert (tmp_path / "early_birds.csv").read_text().count("\n") == 1
    assert "Linear mode" not in (tmp_path / "index.html").read_text()


def test_reading_records_and_lines_needs_no_torch():
    program = "import sys, ltpipe.reporting.report; print({'torch', 'transformers', 'scipy'} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "set()\n"


def test_names_are_text_and_never_markup(tmp_path):
    evil = '</h1><script>alert("x")</script>'
    record(study=evil).write(tmp_path / "r.json")
    write_report(Sources(records=(tmp_path / "r.json",)), tmp_path / "out")
    html = (tmp_path / "out/index.html").read_text()
    assert "<script>" not in html
    assert "&lt;script&gt;" in html


def test_what_cannot_be_reported_leaves_nothing_behind(files, tmp_path):
    with pytest.raises(UserError, match="at least one model"):
        write_report(replace(files, records=()), tmp_path / "out")
    with pytest.raises(UserError, match="give each once"):
        write_report(replace(files, records=files.records * 2), tmp_path / "out")
    with pytest.raises(UserError, match=r"c-0\.json: not a learning record"):
        write_report(replace(files, records=files.connectivities), tmp_path / "out")
    with pytest.raises(UserError, match=r"r-0\.json: not a linear connectivity"):
        write_report(replace(files, connectivities=files.records), tmp_path / "out")
    assert not (tmp_path / "out").exists()
