"""The report stage: tables, figure and page from the metrics of a sweep."""

from collections.abc import Sequence
from pathlib import Path

from ltpipe.evaluation.metrics import Metrics
from ltpipe.reporting.figures import save_figure, tradeoff_figure
from ltpipe.reporting.page import render_page
from ltpipe.reporting.robustness import robustness_table
from ltpipe.reporting.tables import tickets_table, write_csv, write_parquet
from ltpipe.runtime.files import atomic_write
from ltpipe.runtime.provenance import provenance


def write_report(
    baselines: Sequence[Path], tickets: Sequence[Path], folder: Path, perturbed: Sequence[Path] = ()
) -> None:
    """Write `tickets` and `robustness` (`.csv` and `.parquet`), `tradeoff.png`, `tradeoff.svg` and `index.html`.

    Args:
        baselines: metrics files of the dense models.
        tickets: metrics files of the tickets.
        folder: where to write.
        perturbed: metrics files of dense models and tickets with perturbed weights.

    Raises:
        UserError: a metrics file is missing or damaged, or a ticket has no baseline.
    """
    dense = [Metrics.read(path) for path in baselines]
    evaluated = [Metrics.read(path) for path in tickets]
    table = tickets_table(dense, evaluated)
    robustness = robustness_table(dense, evaluated, [Metrics.read(path) for path in perturbed])
    for name, rows in {"tickets": table, "robustness": robustness}.items():
        write_csv(rows, folder / f"{name}.csv")
        write_parquet(rows, folder / f"{name}.parquet")
    svg = folder / "tradeoff.svg"
    save_figure(tradeoff_figure(table), folder / "tradeoff.png", svg)
    page = render_page(table, svg.read_text(encoding="utf-8"), _provenance(dense))
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
