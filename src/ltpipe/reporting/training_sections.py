"""The page's sections on studies of iterative magnitude pruning: findings first."""

from collections.abc import Mapping

import pandas as pd

from ltpipe.reporting.charts import Figure
from ltpipe.reporting.columns import MISSING, percent
from ltpipe.reporting.sections import Row, Section, section, shown, with_interval, word
from ltpipe.reporting.trainings import is_dense, label
from ltpipe.training.connectivity import STABLE


def training_sections(tables: Mapping[str, pd.DataFrame], figures: Mapping[str, Figure]) -> list[Section]:
    """The sections that have something to say.

    Args:
        tables: findings, levels, connectivity and early_birds, by these names.
        figures: by their names, those that there are.
    """
    found = [
        section(
            "Findings",
            "What Frankle & Carbin 2019 and Frankle et al. 2020 found, and whether it holds here: yes or no only "
            "where the 95% interval over replicates says so, else undecided. Differences are paired by replicate.",
            tables["findings"],
            {key: word(key) for key in ("study", "finding", "holds", "evidence")},
            file="findings",
            prose=True,
        ),
        section(
            "Levels of iterative magnitude pruning",
            "Means over replicates, in brackets 95% intervals (Student's t; none where replicates show no spread, "
            "as a single one). Accuracy is that of test data with the weights at the early-stop iteration, the "
            "first minimum of the validation loss; differences in points, paired by replicate.",
            tables["levels"],
            {
                "study": word("study"),
                "level": word("level"),
                "branch": lambda row: "dense model" if is_dense(row) else label(row["branch"], row["donor"]),
                "weights remaining": lambda row: percent(row["weights_remaining"], 1),
                "replicates": word("replicates"),
                "accuracy, %": with_interval("test_accuracy", "{:.2f}", 100),
                "− dense": with_interval("test_accuracy_minus_dense", "{:+.2f}", 100),
                "− ticket": with_interval("test_accuracy_minus_ticket", "{:+.2f}", 100),
                "early-stop iteration": with_interval("early_stop_iteration", "{:,.0f}"),
                "− ticket's": with_interval("early_stop_iteration_minus_ticket", "{:+,.0f}"),
                "accuracy at the end, %": with_interval("final_test_accuracy", "{:.2f}", 100),
            },
            file="levels",
            figure=figures.get("levels"),
        ),
        section(
            "Linear mode connectivity",
            "Test error along the line between two trainings from one rewinding point that saw the data in "
            "different orders. Barrier: the largest error on it minus the mean of its ends. "
            f"Stable: below {percent(STABLE)}.",
            tables["connectivity"].drop_duplicates(["study", "replicate", "level", "first", "second"]),
            {
                "study": word("study"),
                "replicate": word("replicate"),
                "level": word("level"),
                "trainings": lambda row: f"{row['first']} and {row['second']}",
                "barrier, points": lambda row: f"{100 * row['barrier']:.2f}",
                "stable": lambda row: "yes" if row["stable"] else "no",
            },
            file="connectivity",
            figure=figures.get("connectivity"),
        ),
        section(
            "Early-bird tickets",
            "Masks drawn while the dense model trains, and the first iteration at which they had stopped changing.",
            tables["early_birds"].drop_duplicates(["study", "replicate", "sparsity"]),
            {
                "study": word("study"),
                "replicate": word("replicate"),
                "sparsity": lambda row: percent(row["sparsity"]),
                "rule": _rule,
                "converged at iteration": _converged,
            },
            file="early_birds",
            figure=figures.get("early_birds"),
        ),
    ]
    return shown(found)


def _rule(row: Row) -> str:
    corrected = ", chance-corrected" if row["chance_corrected"] else ""
    return f"{row['rule']} {row['threshold']:g}{corrected}, window {row['window']}, patience {row['patience']}"


def _converged(row: Row) -> str:
    return MISSING if pd.isna(row["converged"]) else f"{row['converged']:,}"
