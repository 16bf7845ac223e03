"""The catalogue as a table in docs/bad-input.md: python -m bad_input.page, in the folder tests, writes it."""

from collections import defaultdict

from bad_input.catalogue import CATALOGUE
from bad_input.running import ROOT

PAGE = ROOT / "docs/bad-input.md"
BEGIN, END = "<!-- made by tests/bad_input/page.py: begin -->\n", "<!-- end -->\n"


def table() -> str:
    """One row for each source of bad input and command, with the names of its cases."""
    lines = ["| input | command | cases | |", "|---|---|---:|---|"]
    for where, cases in CATALOGUE.items():
        by_command: dict[str, list[str]] = defaultdict(list)
        for name, case in cases.items():
            by_command[f"ltpipe {case.arguments.split()[0]}" if case.script == "ltpipe" else case.script].append(name)
        for command, names in sorted(by_command.items()):
            lines.append(f"| {where} | `{command}` | {len(names)} | {', '.join(names)} |".replace("-- |", "- |"))
    total = sum(map(len, CATALOGUE.values()))
    return f"{total} cases:\n\n" + "\n".join(lines) + "\n"


def current() -> str:
    """The page with the table of the catalogue as it is."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(current(), encoding="utf-8")
