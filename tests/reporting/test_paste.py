"""Tables to paste: every cell of the page, the best in bold, and marks that follow the paired test."""

import re
import shutil
import subprocess

import pytest

from ltpipe import cli
from ltpipe.reporting import paste
from ltpipe.reporting.folder import ReportFolder, write_folder
from ltpipe.reporting.paste import pasted
from ltpipe.reporting.tables import comparisons, task_comparisons, tasks, tickets
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.frames import frame, parquet_bytes


def ticket(criterion, loss, sparsity=0.5, **more):
    return {
        "model": "m", "data": "text", "criterion": criterion, "scope": "row", "sparsity": sparsity, "kept": 5,
        "total": 10, "loss": loss, "perplexity": 2.0, "accuracy": 0.5, "performance_retention": 0.9,
        "loss_difference": 0.1, "loss_difference_low": 0.05, "loss_difference_high": 0.15, "baseline_loss": 1.0,
        "baseline_loss_high": 1.1, "baseline_perplexity": 2.7, "baseline_accuracy": 0.6, "uniform_loss": 9.0,
    } | more  # fmt: skip


def pair(a, b, significant, sparsity=0.5):
    return {
        "model": "m", "data": "text", "sparsity": sparsity, "criterion_a": a, "criterion_b": b, "scope_a": "row",
        "scope_b": "row", "significant": significant,
    }  # fmt: skip


@pytest.fixture
def report(tmp_path):
    rows = [ticket("wanda", 1.2), ticket("a_b", 1.3), ticket("random", 4.0), ticket("wanda", 9.0, 0.9)]
    pairs = [pair("a_b", "wanda", False), pair("random", "wanda", True), pair("a_b", "random", True)]
    found = {"model": "m", "task": "arc_easy", "metric": "acc", "scope": "row", "documents": 10, "available": 20}
    answers = [
        found | {"value": 0.8, "criterion": None, "sparsity": 0.0, "higher_is_better": True},
        found | {"value": 0.7, "criterion": "wanda", "sparsity": 0.5, "higher_is_better": True, "stderr": 0.01,
                 "difference": -0.1, "difference_low": -0.2, "difference_high": 0.0, "p_value": 0.04},
        found | {"value": 0.6, "criterion": "random", "sparsity": 0.5, "higher_is_better": True},
        found | {"value": 0.9, "criterion": "random", "sparsity": 0.5, "higher_is_better": True, "task": "mean"},
        found | {"value": 0.8, "criterion": "wanda", "sparsity": 0.5, "higher_is_better": True, "task": "mean"},
    ]  # fmt: skip
    compared = {"model": "m", "task": "arc_easy", "metric": "acc", "sparsity": 0.5, "scope_a": "row", "scope_b": "row",
                "criterion_a": "random", "criterion_b": "wanda", "significant": False}  # fmt: skip
    made = [
        (tickets.TABLE, rows), (comparisons.TABLE, pairs), (tasks.TABLE, answers), (task_comparisons.TABLE, [compared])
    ]  # fmt: skip
    contents = {f"{table.name}.parquet": parquet_bytes(frame(each, table.columns)) for table, each in made}
    write_folder(tmp_path / "report", contents)
    return ReportFolder(tmp_path / "report")


def test_markdown(report):
    text = pasted(report, "tickets", "markdown")
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + 1 + 4, "headings, their line, the dense model, and all tickets"
    (wanda,) = (row for row in rows if "| wanda " in row and "50%" in row)
    (other,) = (row for row in rows if "a\\_b" in row)
    (random,) = (row for row in rows if "random" in row)
    assert "| **1.2000** |" in wanda
    assert "| 1.3000 = |" in other
    assert "| 4.0000 |" in random
    assert "+0.1000 [+0.0500, +0.1500]" in wanda
    assert "**9" not in text, "a ticket without rivals is no winner"
    assert text.endswith("=: not told from it by the paired test.\n")
    assert len({row.count(" | ") for row in rows}) == 1


def test_of_tasks_more_may_be_better(report):
    text = pasted(report, "tasks", "markdown")
    assert "**0.7000 ± 0.0100**" in text
    assert "| 0.6000 = |" in text
    assert "| 0.8000 |" in text, "the dense model does not compete"
    assert "**0.9000" not in text, "nobody is best where nothing was tested"


def test_latex(report):
    text = pasted(report, "tickets", "latex")
    assert r"a\_b" in text
    assert r"\textbf{1.2000}" in text
    assert r"1.3000$^{=}$" in text
    assert r"50\%" in text
    head, *body = (line for line in text.splitlines() if line.endswith(r"\\"))
    assert len({line.count(" & ") for line in (head, *body)}) == 1
    assert re.fullmatch(r"\\begin\{tabular\}\{l+\}", text.splitlines()[0])
    assert len(text.splitlines()[0]) - len(r"\begin{tabular}{}") == head.count(" & ") + 1
    if shutil.which("pdflatex"):
        page = rf"\documentclass{{article}}\usepackage{{booktabs}}\begin{{document}}{text}\end{{document}}"
        assert subprocess.run(["pdflatex", "-draftmode"], input=page, text=True, cwd=report.path).returncode == 0


@pytest.mark.parametrize("style", ["latex", "markdown"])
@pytest.mark.parametrize("hostile", ["a|b", "a & b", "50% #1", "$x_i^2$", "~{}\\", "*bold*"])
def test_no_text_breaks_a_table(hostile, style, tmp_path):
    rows = [ticket("wanda", 1.0, model=hostile), ticket("random", 2.0, model="other")]
    write_folder(tmp_path, {"tickets.parquet": parquet_bytes(frame(rows, tickets.TABLE.columns))})
    text = pasted(ReportFolder(tmp_path), "tickets", style)
    between = r"(?<!\\)\|" if style == "markdown" else r"(?<!\\)&"
    rows = [line for line in text.splitlines() if re.search(between, line)]
    assert len({len(re.findall(between, line)) for line in rows}) == 1
    if style == "latex":
        assert not re.search(r"(?<!\\)[%#_]", "\n".join(line for line in rows))


def test_one_line_for_a_table_that_is_not_there(report, capsys):
    with pytest.raises(UserError, match=r"'tikets' is not a table of the page \(did you mean 'tickets'\?\); use "):
        pasted(report, "tikets", "latex")
    with pytest.raises(UserError, match="has no rows of 'curves'"):
        pasted(report, "curves", "latex")
    cli.table("tasks", report.path, style="latex")
    assert capsys.readouterr().out == pasted(report, "tasks", "latex")


def test_contests_name_columns_that_their_tables_have():
    for name, contest in paste._CONTESTS.items():
        table = next(table for table in paste.TABLES if table.name == name)
        assert {*contest.among, contest.key} <= table.columns.keys()
        assert {*contest.among, "significant", "criterion_a"} <= contest.pairs.columns.keys()
