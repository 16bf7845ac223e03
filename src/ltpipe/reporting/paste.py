"""Tables of a report as text to paste into a paper: LaTeX or Markdown, with intervals and the best ticket in bold.

Within a model, text (or task and metric) and sparsity, the best ticket is bold. A ticket that the paired test of
`comparisons` or `task_comparisons` does not tell from it has a mark.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ltpipe.reporting.folder import ReportFolder
from ltpipe.reporting.registry import TABLES
from ltpipe.reporting.table import Table
from ltpipe.reporting.tables import comparisons, task_comparisons, tickets
from ltpipe.reporting.tables.axes import CURVE
from ltpipe.reporting.ticket_columns import shown_columns, with_baselines
from ltpipe.runtime.errors import UserError, did_you_mean
from ltpipe.runtime.frames import Frame, is_missing

Style = Literal["latex", "markdown"]

_NOTE = "Bold: the best of a sparsity. {mark}: not told from it by the paired test."


@dataclass(frozen=True)
class _Contest:
    """Which tickets of a table compete with each other.

    Attributes:
        among: columns that are equal within a contest.
        value: heading of the column that decides, in bold.
        key: column with its values.
        higher: returns whether more is better, from a row.
        pairs: the table of pairs that says which differences are significant.
    """

    among: tuple[str, ...]
    value: str
    key: str
    higher: Callable[[Mapping[str, Any]], bool]
    pairs: Table


_CONTESTS = {
    "tickets": _Contest(("model", "data", "sparsity"), "loss", "loss", lambda _: False, comparisons.TABLE),
    "tasks": _Contest(
        ("model", "task", "metric", "sparsity"),
        "value",
        "value",
        lambda row: bool(row["higher_is_better"]),
        task_comparisons.TABLE,
    ),
}


def names() -> list[str]:
    """Return the names of the tables that can be pasted: those that the page shows."""
    return [table.name for table in TABLES if table.cells or table is tickets.TABLE]


def pasted(report: ReportFolder, name: str, style: Style) -> str:
    """Return a table of a report as text in LaTeX (with the package booktabs) or Markdown.

    Raises:
        UserError: the page has no such table, or the report lacks it.
        DamagedFileError: a file of the report is damaged.
    """
    known = {table.name: table for table in TABLES if table.name in names()}
    if name not in known:
        raise UserError(f"'{name}' is not a table of the page{did_you_mean(name, names())}; use {', '.join(names())}")
    table, rows = known[name], report.table(known[name])
    if not len(rows):
        raise UserError(f"{report.path}: has no rows of '{name}'; name another table or report")
    if table is tickets.TABLE:
        rows = with_baselines(rows)
        cells = {column.title: column.cell for column in shown_columns(rows)}
    else:
        cells = dict(table.cells)
        rows = rows.drop_duplicates(list(table.once)) if table.once else rows
    records = rows.to_dict("records")
    texts = [[cell(row) for cell in cells.values()] for row in records]
    writing = _STYLES[style]
    texts = [[writing.escape(text) for text in line] for line in texts]
    contest = _CONTESTS.get(name)
    marked = False
    if contest is not None:
        column = list(cells).index(contest.value)
        best, tied = _outcome(records, contest, report.table(contest.pairs))
        for index in best:
            texts[index][column] = writing.bold(texts[index][column])
        for index in tied:
            texts[index][column] += writing.mark
        marked = bool(best)
    note = _NOTE.format(mark=writing.mark.strip()) if marked else ""
    return writing.whole([writing.escape(heading) for heading in cells], texts, note)


def written(headings: Sequence[str], rows: Sequence[Sequence[str]], style: Style) -> str:
    """Return a table of plain texts in a style."""
    writing = _STYLES[style]
    return writing.whole(list(map(writing.escape, headings)), [list(map(writing.escape, row)) for row in rows], "")


def _outcome(rows: Sequence[Mapping[str, Any]], contest: _Contest, pairs: Frame) -> tuple[list[int], list[int]]:
    """Return the numbers of the best rows of their contests, and of those that are not told from them.

    Where a pair was not tested, as for means over tasks, nobody is best.
    """
    differ = {
        frozenset((_place(row, contest, "_a"), _place(row, contest, "_b"))): bool(row["significant"])
        for row in pairs.to_dict("records")
    }
    groups: dict[Hashable, list[int]] = {}
    for index, row in enumerate(rows):
        if not is_missing(row["criterion"]) and row["criterion"] != "dense":
            groups.setdefault(tuple(row[name] for name in contest.among), []).append(index)
    best, tied = [], []
    for members in groups.values():
        sign = -1 if contest.higher(rows[members[0]]) else 1
        first = min(members, key=lambda index: sign * rows[index][contest.key])
        here = _place(rows[first], contest)
        found = {index: differ.get(frozenset((here, _place(rows[index], contest)))) for index in members}
        del found[first]
        if found and None not in found.values():
            best.append(first)
            tied += [index for index, differs in found.items() if not differs]
    return best, tied


def _place(row: Mapping[str, Any], contest: _Contest, side: str = "") -> tuple[Any, ...]:
    """Return what identifies a ticket, or one side of a pair."""
    of_curve = (row[f"{axis}{side}"] for axis in CURVE)
    return (*(row[name] for name in contest.among), *(None if is_missing(value) else value for value in of_curve))


@dataclass(frozen=True)
class _Writing:
    """How a style writes.

    Attributes:
        escape: makes text safe.
        bold: makes a cell bold.
        mark: follows a cell.
        whole: makes the table of headings, rows and a note, which may be empty.
    """

    escape: Callable[[str], str]
    bold: Callable[[str], str]
    mark: str
    whole: Callable[[Sequence[str], Iterable[Sequence[str]], str], str]


_LATEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "−": "$-$",
    "±": r"$\pm$",
    "–": "--",
    "“": "``",
    "”": "''",
}


def _latex(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in text)


def _latex_table(headings: Sequence[str], rows: Iterable[Sequence[str]], note: str) -> str:
    lines = [f"\\begin{{tabular}}{{{'l' * len(headings)}}}", r"\toprule", " & ".join(headings) + r" \\", r"\midrule"]
    lines += [" & ".join(row) + r" \\" for row in rows]
    lines += [r"\bottomrule", r"\end{tabular}"]
    return "\n".join([*lines, f"% {note}"] if note else lines) + "\n"


def _markdown(text: str) -> str:
    for sign in "\\|*_`":
        text = text.replace(sign, f"\\{sign}")
    return text


def _markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]], note: str) -> str:
    lines = [_line(headings), _line(["---"] * len(headings)), *map(_line, rows)]
    return "\n".join([*lines, "", note] if note else lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


_STYLES: Mapping[Style, _Writing] = {
    "latex": _Writing(_latex, lambda text: f"\\textbf{{{text}}}", r"$^{=}$", _latex_table),
    "markdown": _Writing(_markdown, lambda text: f"**{text}**", " =", _markdown_table),
}
