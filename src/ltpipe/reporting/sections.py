"""The further tables of the page, as text."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ltpipe.evaluation.simulated import SIMULATION
from ltpipe.reporting.charts import Figure
from ltpipe.reporting.columns import MISSING, percent
from ltpipe.reporting.critical import NOTE, CriticalSparsity

Row = Mapping[str, Any]

SHOWN = 1000
"""Rows of a table that the page has room for; its file has all of them."""


@dataclass(frozen=True)
class Section:
    """A table of the page, a figure, or both.

    Attributes:
        title: heading.
        note: what the numbers mean, in one paragraph.
        headings: of the columns.
        rows: cells, as they are shown.
        total: rows of the table; the page has room for the first `SHOWN`.
        file: stem of the table's files beside the page.
        figure: above the table.
        prose: whether cells hold sentences, which break into lines.
    """

    title: str
    note: str
    headings: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    total: int = 0
    file: str = ""
    figure: Figure | None = None
    prose: bool = False

    @property
    def anchor(self) -> str:
        """Where links to it lead."""
        return "-".join(self.title.lower().split())


def sections(
    comparisons: pd.DataFrame,
    curves: pd.DataFrame,
    overlap: pd.DataFrame,
    validation: pd.DataFrame,
    robustness: pd.DataFrame,
    simulations: pd.DataFrame,
    figures: Mapping[str, Figure],
) -> list[Section]:
    """The sections that have something to say, of the tables of those names.

    Args:
        comparisons: table of that name.
        curves: table of that name.
        overlap: table of that name.
        validation: table of that name.
        robustness: table of that name.
        simulations: table of that name.
        figures: by their names, those that there are.
    """
    found = [
        section(
            "Critical sparsity",
            f"{NOTE} Area: under straight lines from the dense model to the largest sparsity, which it equals if "
            "nothing is lost, with its interval over text.",
            curves,
            {
                "model": word("model"),
                "text": word("data"),
                "tickets": _ticket(""),
                "last winning": lambda row: CriticalSparsity.of(row).winning_text,
                "first losing": lambda row: CriticalSparsity.of(row).losing_text,
                "estimate": lambda row: CriticalSparsity.of(row).estimate_text,
                **({"times it falls": word("crossings")} if (curves["crossings"] > 1).any() else {}),
                "area": with_interval("area", "{:.4f}"),
                "largest sparsity": lambda row: percent(row["largest_sparsity"]),
            },
            file="curves",
            figure=figures.get("critical"),
        ),
        section(
            "Tickets against tickets",
            "Loss of the first minus loss of the second, in nats/token, with its paired 95% interval. They are told "
            "apart where 0 lies outside, each pair by itself: of twenty pairs of equals, about one looks different.",
            comparisons,
            {
                "model": word("model"),
                "text": word("data"),
                "sparsity": lambda row: percent(row["sparsity"]),
                "first": _ticket("_a"),
                "second": _ticket("_b"),
                "difference": with_interval("loss_difference", "{:+.4f}"),
                "told apart": lambda row: "yes" if row["distinct"] else "no",
            },
            file="comparisons",
        ),
        section(
            "Overlap of masks",
            "Masks that differ in one respect. In brackets the level of independent masks of the same densities; for "
            "Spearman it is 0.",
            overlap,
            {
                "model": word("model"),
                "first": _ticket("_a", sparsity=True),
                "second": _ticket("_b", sparsity=True),
                "Jaccard": _with_chance("jaccard"),
                "Hamming": _with_chance("hamming"),
                "Spearman": lambda row: MISSING if pd.isna(row["spearman"]) else f"{row['spearman']:z.4f}",
            },
            file="overlap",
            figure=figures.get("overlap"),
        ),
        pictured(figures.get("layers"), "layers"),
        section(
            "Validation of masks",
            "Broken: not what the mask says it is. Warnings: as promised, but something in the model is cut off.",
            validation,
            {
                "model": word("model"),
                "mask": _ticket("", sparsity=True),
                "verdict": word("verdict"),
                "reasons": word("reasons"),
            },
            file="validation",
        ),
        section(
            "Robustness",
            "Losses in nats/token with changed weights: noise-X adds Gaussian noise of X times the root mean square of "
            "a tensor, intB rounds to B bits. Pruned weights stay zero. Retention is against the dense model as it is.",
            robustness,
            {
                "model": word("model"),
                "text": word("data"),
                "ticket": lambda row: "dense" if pd.isna(row["criterion"]) else _ticket("", sparsity=True)(row),
                "change": word("perturbation"),
                "loss": lambda row: f"{row['loss']:.4f}",
                "more than unchanged": with_interval("loss_difference", "{:+.4f}"),
                "dense, changed": lambda row: f"{row['perturbed_dense_loss']:.4f}",
                "retention": with_interval("performance_retention", "{:.4f}"),
            },
            file="robustness",
        ),
        section(
            "Simulation of iterative pruning",
            f"{SIMULATION[0].upper()}{SIMULATION[1:]} Retention is against the dense model on the same sequences.",
            simulations,
            {
                "model": word("model"),
                "text": word("data"),
                "iteration": lambda row: f"{row['iteration']}{' (best)' if row['best'] else ''}",
                "sparsity": lambda row: percent(row["sparsity"], 1),
                "loss": lambda row: f"{row['loss']:.4f}",
                "retention": lambda row: f"{row['performance_retention']:.4f}",
                "sequences": word("ticket_sequences"),
                "private memory, MiB": lambda row: f"{row['peak_host_private_bytes'] / 2**20:,.0f}",
            },
            file="simulations",
        ),
    ]
    return shown(found)


def costs_section(costs: pd.DataFrame, figure: Figure | None) -> Section:
    """What stages took of time and memory."""
    return section(
        "Time and memory",
        "Wall time without start-up. Memory is the largest peak of all runs: tensors on the accelerator, or on the CPU "
        "by how much private memory grew, with what allocator and libraries add to the tensors that were planned. "
        "Only evaluations and trainings record what they took in their artefacts; other stages have it in their logs.",
        costs,
        {
            "stage": word("stage"),
            "model or study": word("model"),
            "text": word("data"),
            "runs": _number("runs", "{:,}"),
            "all runs, s": _number("seconds", "{:,.1f}"),
            "median run, s": _number("median_seconds", "{:,.1f}"),
            "longest run, s": _number("longest_seconds", "{:,.1f}"),
            "planned, MiB": _number("planned_bytes", "{:,.0f}", 2**-20),
            "measured, MiB": _number("measured_bytes", "{:,.0f}", 2**-20),
            "device": word("device"),
        },
        file="costs",
        figure=figure,
    )


def pictured(figure: Figure | None, file: str) -> Section | None:
    """A section that is a figure alone, with the table of its numbers beside the page."""
    return Section(figure.title, "", figure=figure, file=file) if figure else None


def shown(sections: Iterable[Section | None]) -> list[Section]:
    """Those that have something to show."""
    return [made for made in sections if made and (made.rows or made.figure)]


def section(
    title: str,
    note: str,
    table: pd.DataFrame,
    cells: Mapping[str, Callable[[Row], str]],
    *,
    file: str,
    figure: Figure | None = None,
    prose: bool = False,
) -> Section:
    """A section whose table has a column for each of `cells`, of what it makes of a row; at most `SHOWN` rows."""
    rows: Sequence[Row] = table.head(SHOWN).to_dict("records")
    return Section(
        title,
        note,
        tuple(cells),
        tuple(tuple(show(row) for show in cells.values()) for row in rows),
        total=len(table),
        file=file,
        figure=figure,
        prose=prose,
    )


def word(key: str) -> Callable[[Row], str]:
    """A value as it is."""
    return lambda row: MISSING if pd.isna(row[key]) or row[key] == "" else str(row[key])


def _number(key: str, form: str, scale: float = 1) -> Callable[[Row], str]:
    return lambda row: MISSING if pd.isna(row[key]) else form.format(scale * row[key] if scale != 1 else row[key])


def _ticket(side: str, sparsity: bool = False) -> Callable[[Row], str]:
    def show(row: Row) -> str:
        seed = row[f"seed{side}"]
        parts = [row[f"criterion{side}"], row[f"scope{side}"], *([] if pd.isna(seed) else [f"seed {seed}"])]
        return ", ".join([*parts, *([percent(row[f"sparsity{side}"])] if sparsity else [])])

    return show


def with_interval(key: str, form: str, scale: float = 1) -> Callable[[Row], str]:
    """A value times `scale`, with its interval where there is one."""

    def show(row: Row) -> str:
        if pd.isna(row[key]):
            return MISSING
        value, low, high = (form.format(scale * row[f"{key}{bound}"]) for bound in ("", "_low", "_high"))
        return value if pd.isna(row[f"{key}_low"]) else f"{value} [{low}, {high}]"

    return show


def _with_chance(key: str) -> Callable[[Row], str]:
    return lambda row: MISSING if pd.isna(row[key]) else f"{row[key]:.4f} [{row[f'{key}_chance']:.4f}]"
