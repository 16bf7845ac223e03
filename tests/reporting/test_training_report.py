"""The report of studies: page, terminal, and the stage that makes them without any one-shot ticket."""

import io
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from reports import BIRDS, LEVELS, LINES, TRAININGS
from rich.console import Console
from studies import record

from ltpipe.reporting.folder import ReportFolder
from ltpipe.reporting.report import Sources, write_report
from ltpipe.reporting.tables import findings, levels, tickets
from ltpipe.reporting.tables.findings import findings_table
from ltpipe.reporting.training_terminal import finding_lines, levels_summary
from ltpipe.runtime.errors import UserError

CONFIG = "imp:\n  lenet: {}\n"
FIGURES = ("levels", "connectivity", "early_birds", "costs")


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
    write_report(files, folder, CONFIG)
    return folder


def test_a_report_of_studies_alone_has_no_table_of_tickets(report):
    tables = ("connectivity", "costs", "early_birds", "findings", "levels", "trainings")
    assert {path.name for path in report.iterdir()} == {
        "index.html",
        "config.yaml",
        "SHA256SUMS",
        *(f"{name}.{kind}" for name in tables for kind in ("csv", "parquet")),
        *(f"{name}.{kind}" for name in FIGURES for kind in ("png", "svg")),
    }
    folder = ReportFolder(report)
    pd.testing.assert_frame_equal(folder.table(levels.TABLE), LEVELS, check_exact=True)
    assert folder.table(findings.TABLE)["holds"].tolist()[0] == "yes"
    assert len(folder.table(tickets.TABLE)) == 0


def test_sha256sum_checks_all_of_a_report(report):
    command = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    checked = subprocess.run(command, cwd=report, capture_output=True, text=True, check=True).stdout.splitlines()
    assert {line.removesuffix(": OK") for line in checked} == {path.name for path in report.iterdir()} - {"SHA256SUMS"}


def test_the_page_shows_the_verdict_first_and_nothing_empty(report):
    html = (report / "index.html").read_text()
    headings = re.findall(r"<h2[^>]*>(.*?)</h2>", html.split("<script")[0])
    assert headings == [
        "Verdict", "Findings", "Levels of iterative magnitude pruning", "Linear mode connectivity",
        "Early-bird tickets", "Time and memory", "Provenance",
    ]  # fmt: skip
    assert html.count('<img class="still"') == html.count("data:image/svg+xml;base64,") == len(FIGURES)
    assert re.findall(r'data-view="(.*?)"', html) == [f"{name}-0" for name in FIGURES]
    assert "<h1>Lottery tickets of lenet</h1>" in html
    for absent in ("performance_retention", "There are no tickets", "All tickets", "one shot"):
        assert absent not in html
    assert "task of lenet" in html
    assert "mask of lenet" not in html  # not one for all trainings
    assert f"<dt>runs of lenet</dt><dd>{len(TRAININGS.records)}, replicates (seeds) 0, 1, 2, 3, 4</dd>" in html
    assert CONFIG in html
    assert (report / "config.yaml").read_text() == CONFIG


def test_the_same_files_give_the_same_report(files, report, tmp_path):
    write_report(files, tmp_path, CONFIG)
    for path in report.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes(), path.name


def test_records_alone_give_no_lines_and_no_birds(files, tmp_path):
    write_report(replace(files, connectivities=(), early_birds=()), tmp_path)
    assert {path.stem for path in tmp_path.glob("*.png")} == {"levels", "costs"}
    assert not list(tmp_path.glob("early_birds.*"))
    assert "Linear mode" not in (tmp_path / "index.html").read_text()


def test_files_of_another_study_go(files, tmp_path):
    write_report(files, tmp_path)
    (tmp_path / "mine.png").touch()
    write_report(replace(files, connectivities=(), early_birds=()), tmp_path)
    assert {path.stem for path in tmp_path.glob("*.svg")} == {"levels", "costs"}
    assert {path.stem for path in tmp_path.glob("*.png")} == {"levels", "costs", "mine"}
    assert not list(tmp_path.glob("connectivity.*"))


def test_reading_records_and_lines_needs_no_torch():
    program = "import sys, ltpipe.reporting.report; print({'torch', 'transformers', 'scipy'} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "set()\n"


def test_names_are_text_and_never_markup(tmp_path):
    evil = '</h1><script>alert("x")</script>'
    record(training=evil).write(tmp_path / "r.json")
    write_report(Sources(records=(tmp_path / "r.json",)), tmp_path / "out")
    html = (tmp_path / "out/index.html").read_text()
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert" in html
    assert html.count("<script") == 3  # data, the library, and what is ours


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
