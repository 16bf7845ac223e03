"""The further tables of the page, as text."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ltpipe.evaluation.quality import WINNING_RETENTION
from ltpipe.evaluation.simulated import SIMULATION
from ltpipe.reporting.columns import MISSING, percent

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Section:
    """One table of the page.

    Attributes:
        title: heading.
        note: what the numbers mean, in one paragraph.
        headings: of the columns.
        rows: cells, as they are shown.
    """

    title: str
    note: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def sections(
    comparisons: pd.DataFrame,
    curves: pd.DataFrame,
    overlap: pd.DataFrame,
    validation: pd.DataFrame,
    robustness: pd.DataFrame,
    simulations: pd.DataFrame,
) -> list[Section]:
    """The sections that have something to say, of the tables of those names."""
    found = [
        _section(
            "Sparsity against retention",
            f"Critical sparsity: where retention falls below {WINNING_RETENTION}, interpolated between tickets. Area: "
            "under retention from sparsity 0 to the largest, which it equals if nothing is lost. In brackets 95% "
            "intervals.",
            curves,
            {
                "model": _word("model"),
                "text": _word("data"),
                "tickets": _ticket(""),
                "critical sparsity": _critical,
                "area": _with_interval("area", "{:.4f}"),
                "largest sparsity": lambda row: percent(row["largest_sparsity"]),
            },
        ),
        _section(
            "Tickets against tickets",
            "Loss of the first minus loss of the second, in nats/token, with its paired 95% interval. Tickets are told "
            "apart where 0 lies outside; of twenty pairs of equals, about one will look different.",
            comparisons,
            {
                "model": _word("model"),
                "text": _word("data"),
                "sparsity": lambda row: percent(row["sparsity"]),
                "first": _ticket("_a"),
                "second": _ticket("_b"),
                "difference": _with_interval("loss_difference", "{:+.4f}"),
                "told apart": lambda row: "yes" if row["distinct"] else "no",
            },
        ),
        _section(
            "Overlap of masks",
            "Masks that differ in one respect. In brackets the level of independent masks of the same densities; for "
            "Spearman it is 0.",
            overlap,
            {
                "model": _word("model"),
                "first": _ticket("_a", sparsity=True),
                "second": _ticket("_b", sparsity=True),
                "Jaccard": _with_chance("jaccard"),
                "Hamming": _with_chance("hamming"),
                "Spearman": lambda row: MISSING if pd.isna(row["spearman"]) else f"{row['spearman']:.4f}",
            },
        ),
        _section(
            "Validation of masks",
            "Broken: not what the mask says it is. Warnings: as promised, but something in the model is cut off.",
            validation,
            {
                "model": _word("model"),
                "mask": _ticket("", sparsity=True),
                "verdict": _word("verdict"),
                "reasons": _word("reasons"),
            },
        ),
        _section(
            "Robustness",
            "Losses in nats/token with changed weights: noise-X adds Gaussian noise of X times the root mean square of "
            "a tensor, intB rounds to B bits. Pruned weights stay zero. Retention is against the dense model as it is.",
            robustness,
            {
                "model": _word("model"),
                "text": _word("data"),
                "ticket": lambda row: "dense" if pd.isna(row["criterion"]) else _ticket("", sparsity=True)(row),
                "change": _word("perturbation"),
                "loss": lambda row: f"{row['loss']:.4f}",
                "more than unchanged": _with_interval("loss_difference", "{:+.4f}"),
                "dense, changed": lambda row: f"{row['perturbed_dense_loss']:.4f}",
                "retention": _with_interval("performance_retention", "{:.4f}"),
            },
        ),
        _section(
            "Simulation of iterative pruning",
            f"{SIMULATION[0].upper()}{SIMULATION[1:]} Retention is against the dense model on the same sequences.",
            simulations,
            {
                "model": _word("model"),
                "text": _word("data"),
                "iteration": lambda row: f"{row['iteration']}{' (best)' if row['best'] else ''}",
                "sparsity": lambda row: percent(row["sparsity"], 1),
                "loss": lambda row: f"{row['loss']:.4f}",
                "retention": lambda row: f"{row['performance_retention']:.4f}",
                "sequences": _word("ticket_sequences"),
                "private memory, MiB": lambda row: f"{row['peak_host_private_bytes'] / 2**20:,.0f}",
            },
        ),
    ]
    return [section for section in found if section.rows]


def _section(title: str, note: str, table: pd.DataFrame, cells: Mapping[str, Callable[[Row], str]]) -> Section:
    rows: Sequence[Row] = table.to_dict("records")
    return Section(title, note, tuple(cells), tuple(tuple(show(row) for show in cells.values()) for row in rows))


def _word(key: str) -> Callable[[Row], str]:
    return lambda row: MISSING if pd.isna(row[key]) or row[key] == "" else str(row[key])


def _ticket(side: str, sparsity: bool = False) -> Callable[[Row], str]:
    def show(row: Row) -> str:
        seed = row[f"seed{side}"]
        parts = [row[f"criterion{side}"], row[f"scope{side}"], *([] if pd.isna(seed) else [f"seed {seed}"])]
        return ", ".join([*parts, *([percent(row[f"sparsity{side}"])] if sparsity else [])])

    return show


def _with_interval(key: str, form: str) -> Callable[[Row], str]:
    def show(row: Row) -> str:
        low, high = row[f"{key}_low"], row[f"{key}_high"]
        value = form.format(row[key])
        return value if pd.isna(low) else f"{value} [{form.format(low)}, {form.format(high)}]"

    return show


def _with_chance(key: str) -> Callable[[Row], str]:
    return lambda row: MISSING if pd.isna(row[key]) else f"{row[key]:.4f} [{row[f'{key}_chance']:.4f}]"


def _critical(row: Row) -> str:
    values = [row[f"critical_sparsity{bound}"] for bound in ("", "_low", "_high")]
    value, low, high = (
        f"≥ {percent(row['largest_sparsity'])}" if pd.isna(value) else percent(value, 1) for value in values
    )
    # One sequence gives no interval at all.
    return value if pd.isna(row["area_low"]) or low == high == value else f"{value} [{low}, {high}]"
