"""Print the table of tickets, and where the page is."""

from pathlib import Path

from ltpipe.reporting.tables import read_tickets
from ltpipe.reporting.terminal import print_tickets
from ltpipe.runtime import stage


def main(*, tickets: Path, page: Path | None = None) -> None:
    """Print the table of tickets, and where the page is.

    Args:
        tickets: tickets.csv of a report.
        page: the report's page.
    """
    print_tickets(read_tickets(tickets), page)


if __name__ == "__main__":
    stage.run(main)
