"""Print tables of tickets and trained levels, verdicts, findings, and the path of the page."""

from pathlib import Path

from ltpipe.reporting.folder import PAGE, ReportFolder
from ltpipe.reporting.tables import comparisons, curves, findings, levels, tickets
from ltpipe.reporting.terminal import print_page, print_tickets, print_verdicts
from ltpipe.reporting.training_terminal import print_trainings
from ltpipe.runtime import stage
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.made_with import check_made_with
from ltpipe.workflow.config import load_config
from ltpipe.workflow.report import folder as report_folder
from ltpipe.workflow.settings import JobSettings


def main(
    *,
    report: Path | None = None,
    config: Path | None = None,
) -> None:
    """Print tables of tickets and trained levels, verdicts, findings, and the path of the page.

    Args:
        report: folder of the report; by default that of the configuration.
        config: configuration of the report's study; a report made with other settings is refused.
    """
    study = load_config(config) if config else None
    if report is None and study is None:
        raise UserError("report: missing; name the folder of a report with --report, or its study with --config")
    folder = ReportFolder(report or Path(report_folder(study)))
    if study:
        check_made_with(folder.sums.path, folder.sums.made_with, JobSettings(study).made_with("report", {}))
    table = folder.table(tickets.TABLE)
    if len(table):
        print_tickets(table)
        print_verdicts(table, folder.table(curves.TABLE), folder.table(comparisons.TABLE))
    print_trainings(folder.table(levels.TABLE), folder.table(findings.TABLE))
    print_page(folder.path / PAGE)


if __name__ == "__main__":
    stage.run(main)
