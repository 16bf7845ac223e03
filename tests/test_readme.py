"""The README's table of the default study, made again by the pipeline (make test-slow)."""

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from checkouts import ROOT, checkout, snakemake

pytestmark = pytest.mark.slow

ROUNDING = 1e-5
"""What a loss differs by between machines, as a part of it: processors add float32 numbers in other orders. Seen on
two machines: 17.4554 and 17.4555 nats a token, perplexities of 287,332 and 287,335."""


def printed(cell: str) -> tuple[float, float]:
    """The number in a cell, and half a unit of its last digit; of a percentage as a fraction."""
    digits, exponent = re.fullmatch(r"([\d.,]+)(e\+\d+)?(?: %)?", cell).groups()
    percent = 0.01 if cell.endswith("%") else 1
    unit = 10.0 ** -len(digits.partition(".")[2]) * float(f"1{exponent or ''}") * percent
    return float(digits.replace(",", "") + (exponent or "")) * percent, unit / 2


def promised(readme: str) -> list[list[str]]:
    """The cells of the table: criterion, scope, sparsity, loss, perplexity, accuracy, retention."""
    (table,) = re.findall(
        r"^\| criterion \| scope \| sparsity \| loss .*\n\|[-:|]+\n((?:\|.*\n)+)", readme, re.MULTILINE
    )
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def measured(tickets: pd.DataFrame, criterion: str, scope: str, sparsity: float) -> tuple[float, float, float, float]:
    """Loss, perplexity, accuracy and retention of a ticket, or of the dense model."""
    if criterion == "dense":
        row = tickets.iloc[0]
        return row["baseline_loss"], row["baseline_perplexity"], row["baseline_accuracy"], 1.0
    wanted = (tickets["criterion"] == criterion) & (tickets["scope"] == scope) & (tickets["sparsity"] == sparsity)
    (row,) = tickets[wanted].to_dict("records")
    return row["loss"], row["perplexity"], row["accuracy"], row["performance_retention"]


def wrong(readme: str, tickets: pd.DataFrame) -> list[str]:
    """Numbers of the table that are not those of the tickets."""
    found = []
    for criterion, scope, sparsity, *cells in promised(readme):
        numbers = measured(tickets, criterion, scope, printed(sparsity)[0])
        loss = numbers[0]
        # A token in 4,080 may have another predicted one; a perplexity is exp(loss), a retention a ratio of losses.
        slack = (ROUNDING * loss, ROUNDING * loss * numbers[1], 1 / 4080, 2 * ROUNDING)
        for cell, number, more in zip(cells, numbers, slack, strict=True):
            expected, half = printed(cell)
            if abs(number - expected) > half + more:
                found.append(f"{criterion} {scope} {sparsity}: {cell} is {number}")
    return found


def test_the_default_study_gives_the_table_of_the_readme(tmp_path: Path):
    folder = checkout(tmp_path / "default")
    shutil.copyfile(ROOT / "config/config.yaml", folder / "config/config.yaml")
    snakemake(folder, "--cores", "all", timeout=3600)
    tickets = pd.read_csv(folder / "results/report/tickets.csv")
    readme = (ROOT / "README.md").read_text()
    assert len(promised(readme)) == len(tickets) + 1
    assert wrong(readme, tickets) == []
