"""Write tables of the measurements of a model and its tickets, with all intervals."""

from pathlib import Path

from ltpipe.reporting.one_shot import Files, one_shot_tables
from ltpipe.runtime import stage
from ltpipe.runtime.frames import parquet_bytes, write_table


def main(*, files: Files, output: Path) -> None:
    """Write tables of the measurements of a model and its tickets, with all intervals.

    Args:
        files: files of one or several models.
        output: folder for the Parquet tables.
    """
    tables = one_shot_tables(files)
    for name, table in tables.items():
        write_table(output / f"{name}.parquet", parquet_bytes(table))
    stage.say(f"tables: {len(tables['tickets'])} tickets, {len(tables['comparisons'])} pairs of them in {output}")


if __name__ == "__main__":
    stage.run(main)
