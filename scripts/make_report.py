"""Gather tickets and trainings in tables, figures and a page."""

from pathlib import Path

from ltpipe.reporting.report import Sources, write_report
from ltpipe.runtime import stage


def main(*, sources: Sources, output: Path, config: str = "") -> None:
    """Gather tickets and trainings in tables, figures and a page.

    Args:
        sources: files to report on.
        output: folder to write tables, figures and index.html to.
        config: the study as YAML, for the page to say and others to run again.
    """
    tickets = write_report(sources, output, config)
    stage.say(f"report: {tickets:,} tickets, {len(sources.records):,} trainings in {output}")


if __name__ == "__main__":
    stage.run(main)
