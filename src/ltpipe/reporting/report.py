"""The report stage: tables, figure and page from the metrics of a sweep."""

from collections.abc import Sequence
from pathlib import Path

from ltpipe.analysis.overlap_tables import OVERLAP
from ltpipe.analysis.samples import samples
from ltpipe.analysis.validation_table import VALIDATION
from ltpipe.evaluation.metrics import Metrics
from ltpipe.evaluation.simulated import Simulation
from ltpipe.reporting.figures import save_figure, tradeoff_figure
from ltpipe.reporting.page import render_page
from ltpipe.reporting.robustness import robustness_table
from ltpipe.reporting.sections import sections
from ltpipe.reporting.simulations import simulations_table
from ltpipe.reporting.tables import comparisons_table, curves_table, gathered, tickets_table
from ltpipe.runtime.files import atomic_write
from ltpipe.runtime.frames import write_csv, write_parquet
from ltpipe.runtime.provenance import provenance


def write_report(
    baselines: Sequence[Path],
    tickets: Sequence[Path],
    overlaps: Sequence[Path],
    validations: Sequence[Path],
    perturbed: Sequence[Path],
    simulations: Sequence[Path],
    folder: Path,
) -> None:
    """Write all tables as CSV, those from metrics as Parquet too, `tradeoff.png`, `tradeoff.svg` and `index.html`.

    Args:
        baselines: metrics files of the dense models.
        tickets: metrics files of the tickets.
        overlaps: overlap tables of the models' masks.
        validations: validation tables of the models' masks.
        perturbed: metrics files of dense models and tickets with perturbed weights.
        simulations: of iterative magnitude pruning.
        folder: where to write.

    Raises:
        UserError: a file is missing or damaged, or a ticket has no baseline.
    """
    dense = [Metrics.read(path) for path in baselines]
    evaluated = [Metrics.read(path) for path in tickets]
    measured = samples(dense, evaluated)
    table, comparisons, curves = tickets_table(measured), comparisons_table(measured), curves_table(measured)
    robustness = robustness_table(dense, evaluated, [Metrics.read(path) for path in perturbed])
    overlap = gathered(overlaps, OVERLAP, "an overlap table", "overlap")
    validation = gathered(validations, VALIDATION, "a validation table", "validation")
    from_metrics = {"tickets": table, "comparisons": comparisons, "curves": curves, "robustness": robustness}
    for name, made in from_metrics.items():
        write_csv(made, folder / f"{name}.csv")
        write_parquet(made, folder / f"{name}.parquet")
    simulated = simulations_table([Simulation.read(path) for path in simulations])
    write_csv(simulated, folder / "simulations.csv")
    write_csv(overlap, folder / "overlap.csv")
    write_csv(validation, folder / "validation.csv")
    svg = folder / "tradeoff.svg"
    save_figure(tradeoff_figure(table), folder / "tradeoff.png", svg)
    further = sections(comparisons, curves, overlap, validation, robustness, simulated)
    page = render_page(table, svg.read_text(encoding="utf-8"), _provenance(dense), further)
    with atomic_write(folder / "index.html") as file:
        file.write(page.encode())


def _provenance(dense: Sequence[Metrics]) -> dict[str, str]:
    """What the page says about its origin, as plain lines."""
    here = provenance({}, {})
    packages = ", ".join(f"{name} {version}" for name, version in here["packages"].items() if version)
    lines = {
        "ltpipe": f"{here['ltpipe']}, commit {here['git_commit'] or 'unknown'}",
        "python": f"{here['python']}, {packages}",
        "machine": here["machine"],
        "created": here["created"],
    }
    for metrics in dense:
        for what, fingerprint in metrics.provenance["inputs"].items():
            lines[f"{what} of {metrics.model}, {metrics.data}"] = fingerprint
    return lines
