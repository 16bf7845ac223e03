"""Published perplexities beside those of a report, with what differs between the two protocols."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from ltpipe.reporting.cells import percent
from ltpipe.reporting.folder import CONFIG, ReportFolder
from ltpipe.reporting.tables import tickets
from ltpipe.reporting.ticket_columns import perplexity
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.labels import name_of

COLUMNS = (
    "model", "criterion", "scope", "sparsity", "perplexity", "sequence_length", "precision", "calibration", "source",
)  # fmt: skip
"""Columns of a file of facts."""


@dataclass(frozen=True)
class Fact:
    """A published WikiText-2 perplexity.

    Attributes:
        model: name that a study has to give the model.
        criterion, scope, sparsity: ltpipe's names of the published method; criterion `dense` for the dense model.
        perplexity: the published number.
        sequence_length: tokens of an evaluated sequence.
        precision: dtype of the computation.
        calibration: what the method was calibrated on; empty for nothing.
        source: where the number stands.
    """

    model: str
    criterion: str
    scope: str
    sparsity: float
    perplexity: float
    sequence_length: int
    precision: str
    calibration: str
    source: str


def read_facts(path: Path | None = None) -> list[Fact]:
    """Return published numbers from a CSV file; from ltpipe's own if there is none.

    Raises:
        UserError: there is no such file, or it has other columns or values.
    """
    place = files("ltpipe.reporting") / "published.csv" if path is None else path
    try:
        rows = list(csv.DictReader(place.read_text(encoding="utf-8").splitlines()))
        return [
            Fact(
                row["model"],
                row["criterion"],
                row["scope"],
                float(row["sparsity"]),
                float(row["perplexity"]),
                int(row["sequence_length"]),
                row["precision"],
                row["calibration"],
                row["source"],
            )
            for row in rows
        ]
    except OSError as error:
        raise UserError(f"{place}: cannot be read ({type(error).__name__}); name a CSV file") from None
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{place}: not a table of published numbers; its columns are {', '.join(COLUMNS)}") from None


def beside_published(report: ReportFolder, facts: Sequence[Fact]) -> tuple[list[str], list[list[str]]]:
    """Return headings, and a row for each published number that a report has too: ours, theirs, and what differs.

    A number is the report's if its model has the published name, and criterion, scope and sparsity are the same, on a
    text of protocol wikitext2.

    Raises:
        UserError: the report has none of the published numbers, or is not one of a study.
    """
    rows = report.table(tickets.TABLE).to_dict("records")
    rows = [row for row in rows if row["protocol"] == "wikitext2"]
    lengths = _lengths(report)
    found = []
    for fact in facts:
        for row in _matching(rows, fact):
            ours = row["baseline_perplexity"] if fact.criterion == "dense" else row["perplexity"]
            ticket = " ".join([fact.criterion, fact.scope, percent(fact.sparsity)] if fact.scope else ["dense"])
            found.append(
                [
                    fact.model,
                    ticket,
                    perplexity(ours),
                    perplexity(fact.perplexity),
                    f"{ours / fact.perplexity:.3f}",
                    "; ".join(_differences(row, fact, lengths)) or "none known",
                    fact.source,
                ]
            )
    if not found:
        models = ", ".join(dict.fromkeys(fact.model for fact in facts))
        raise UserError(
            f"{report.path}: no ticket with a published number; run a study of config/published, in which the model is "
            f"named as there ({models}) and the text has protocol wikitext2"
        )
    return ["model", "ticket", "ours", "published", "ours / published", "what differs", "source"], found


def _matching(rows: Sequence[Mapping[str, Any]], fact: Fact) -> list[Mapping[str, Any]]:
    of_model = [row for row in rows if row["model"] == fact.model]
    if fact.criterion == "dense":
        return list({row["data"]: row for row in of_model}.values())
    return [
        row
        for row in of_model
        if (name_of(row["criterion"]), row["scope"], row["sparsity"]) == (fact.criterion, fact.scope, fact.sparsity)
    ]


def _lengths(report: ReportFolder) -> dict[str, int]:
    """Return the lengths of evaluated sequences, by the name of their settings."""
    path = report.path / CONFIG
    if not path.is_file():
        raise UserError(f"{path}: no such file; the report was not written by a study")
    evaluate = yaml.safe_load(path.read_text(encoding="utf-8"))["evaluate"]
    named = {name: each["sequence_length"] for name, each in evaluate["settings"].items()}
    return {"": evaluate["sequence_length"], **named}


def _differences(row: Mapping[str, Any], fact: Fact, lengths: Mapping[str, int]) -> list[str]:
    length = lengths[row["data"].partition("@")[2]]
    found = []
    if length != fact.sequence_length:
        found.append(f"sequences of {length:,} tokens, published {fact.sequence_length:,}")
    if row["precision"] != fact.precision:
        found.append(f"{row['precision']}, published {fact.precision}")
    if fact.criterion not in ("dense", "magnitude"):
        found.append(f"calibration: evenly spaced sequences of joined documents, published {fact.calibration}, random")
    return found
