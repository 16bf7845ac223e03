"""Print the tables of tickets and of trained levels, verdicts and findings, and where the page is."""

from pathlib import Path

from ltpipe.reporting.tables import read_beside, read_tickets
from ltpipe.reporting.terminal import print_page, print_tickets, print_verdicts
from ltpipe.reporting.training_terminal import print_studies, read_findings, read_levels
from ltpipe.runtime import stage
from ltpipe.runtime.frames import made_with
from ltpipe.runtime.made_with import check_made_with
from ltpipe.workflow.config import check_config
from ltpipe.workflow.configfile import read_config
from ltpipe.workflow.settings import Settings


def main(
    *,
    tickets: Path,
    levels: Path | None = None,
    findings: Path | None = None,
    page: Path | None = None,
    config: Path | None = None,
    schema: Path = Path("workflow/schemas/config.schema.yaml"),
) -> None:
    """Print the tables of tickets and of trained levels, verdicts and findings, and where the page is.

    Args:
        tickets: tickets.csv of a report, with its curves.csv and comparisons.csv beside it.
        levels: its levels.csv.
        findings: its findings.csv.
        page: the report's page.
        config: what the report is to be of; one that was made with other settings is refused.
        schema: of the configuration.
    """
    table = read_tickets(tickets)
    if config:
        asked = Settings(check_config(read_config(config), read_config(schema))).made_with("report", {})
        check_made_with(tickets, made_with(tickets), asked)
    trained = (read_levels(levels), read_findings(findings)) if levels and findings else None
    if len(table):
        print_tickets(table)
        print_verdicts(table, *read_beside(tickets))
    if trained:
        print_studies(*trained)
    if page:
        print_page(page)


if __name__ == "__main__":
    stage.run(main)
