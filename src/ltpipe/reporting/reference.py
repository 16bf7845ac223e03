"""docs/tables.md, every column of every table of the report, from their declarations."""

from collections.abc import Iterator
from pathlib import Path

from ltpipe.reporting.registry import TABLES
from ltpipe.reporting.table import Table
from ltpipe.runtime import stage
from ltpipe.runtime.files import atomic_write

_HEAD = """# Tables of the report

Every table that a report can have, with the pandas dtypes of its columns. A report has the tables
of what ran. Columns that end in `_low` and `_high` are the bounds of a 95 % interval.

`make reference` makes this page from the declarations in `src/ltpipe/reporting/tables`.
"""


def page() -> str:
    """The page, as Markdown."""
    return "\n".join([_HEAD, *(line for table in TABLES for line in _section(table))])


def _section(table: Table) -> Iterator[str]:
    yield f"## {table.name}\n"
    yield f"One row per {table.row.removeprefix('a ').removeprefix('an ')}. Files: {_listed(table.files)}.\n"
    yield "| column | dtype | meaning |\n|---|---|---|"
    for name, column in table.columns.items():
        if name.endswith(("_low", "_high")):
            continue
        bounds = [f"{name}_{bound}" for bound in ("low", "high") if f"{name}_{bound}" in table.columns]
        yield f"| {_listed([name, *bounds])} | {column.dtype} | {column.meaning.rstrip('.')} |"
    yield ""


def _listed(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def main(*, output: Path) -> None:
    """Write the page.

    Args:
        output: Markdown file.
    """
    with atomic_write(output) as file:
        file.write(page().encode())


if __name__ == "__main__":
    stage.run(main)
