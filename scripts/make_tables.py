"""Put what was measured of a model and its tickets in tables, with all intervals."""

from pathlib import Path

from ltpipe.reporting.one_shot import Files, one_shot_tables
from ltpipe.runtime import stage
from ltpipe.runtime.frames import write_parquet


def main(*, files: Files, output: Path) -> None:
    """Put what was measured of a model and its tickets in tables, with all intervals.

    Args:
        files: files of one model, or of several.
        output: folder to write the tables to, as Parquet.
    """
    tables = one_shot_tables(files)
    for name, table in tables.items():
        write_parquet(table, output / f"{name}.parquet")
    stage.say(f"tables: {len(tables['tickets'])} tickets, {len(tables['comparisons'])} pairs of them in {output}")


if __name__ == "__main__":
    stage.run(main)
