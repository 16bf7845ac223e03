"""Measure how much the masks of a model overlap, and how much they would by chance."""

from pathlib import Path

from ltpipe.analysis.overlap_tables import overlap_tables
from ltpipe.runtime import stage
from ltpipe.runtime.frames import csv_bytes, parquet_bytes, write_table


def main(*, masks: tuple[Path, ...], output: Path, layers: Path, model: str = "model") -> None:
    """Measure how much the masks of a model overlap, and how much they would by chance.

    Args:
        masks: mask files of one model; masks that differ in one of criterion, scope, seed and sparsity are compared.
        output: CSV file to write, one row per pair.
        layers: Parquet file to write, one row per pair and tensor.
        model: name of the model in the tables.
    """
    pairs, by_tensor = overlap_tables(model, masks)
    write_table(layers, parquet_bytes(by_tensor))
    write_table(output, csv_bytes(pairs))
    stage.say(f"{model}: compared {len(pairs)} pairs of {len(masks)} masks")


if __name__ == "__main__":
    stage.run(main)
