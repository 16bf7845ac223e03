"""Gather tickets in tables, a figure and a page."""

from pathlib import Path

from ltpipe.reporting.report import write_report
from ltpipe.runtime import stage


def main(
    *,
    baselines: tuple[Path, ...],
    tickets: tuple[Path, ...],
    output: Path,
    overlaps: tuple[Path, ...] = (),
    validations: tuple[Path, ...] = (),
    perturbed: tuple[Path, ...] = (),
    simulations: tuple[Path, ...] = (),
) -> None:
    """Gather tickets in tables, a figure and a page.

    Args:
        baselines: metrics of the dense models.
        tickets: metrics of the tickets.
        output: folder to write tables, figure and index.html to.
        overlaps: overlap tables of the models' masks.
        validations: validation tables of the models' masks.
        perturbed: metrics of dense models and tickets with perturbed weights.
        simulations: of iterative magnitude pruning.
    """
    write_report(baselines, tickets, overlaps, validations, perturbed, simulations, output)
    stage.say(f"report: {len(tickets)} tickets in {output}")


if __name__ == "__main__":
    stage.run(main)
