"""Write the report on tickets and trainings: tables, figures and a page."""

from pathlib import Path

from ltpipe.reporting.report import Sources, write_report
from ltpipe.runtime import stage


def main(*, sources: Sources, output: Path, config: str = "") -> None:
    """Write the report on tickets and trainings: tables, figures and a page.

    Args:
        sources: files to report on.
        output: folder for tables, figures and index.html.
        config: the study as YAML, which the page shows so that others can run it again.
    """
    tickets = write_report(sources, output, config)
    stage.say(f"report: {tickets:,} tickets, {len(sources.records):,} trainings in {output}")


if __name__ == "__main__":
    stage.run(main)
