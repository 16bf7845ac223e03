"""Gather tickets in tables, a figure and a page."""

from pathlib import Path

from ltpipe.reporting.report import write_report
from ltpipe.runtime import stage


def main(
    *, baselines: tuple[Path, ...], tickets: tuple[Path, ...], perturbed: tuple[Path, ...] = (), output: Path
) -> None:
    """Gather tickets in tables, a figure and a page.

    Args:
        baselines: metrics of the dense models.
        tickets: metrics of the tickets.
        perturbed: metrics of dense models and tickets with perturbed weights.
        output: folder to write tickets.csv, robustness.csv (both as .parquet too), tradeoff.png, tradeoff.svg and
            index.html to.
    """
    write_report(baselines, tickets, output, perturbed)
    stage.say(f"report: {len(tickets)} tickets in {output}")


if __name__ == "__main__":
    stage.run(main)
