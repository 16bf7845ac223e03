"""Check that the masks of a model are what they claim to be, and find what they have emptied."""

from collections import Counter
from pathlib import Path

from ltpipe.analysis.validation import validate_files
from ltpipe.analysis.validation_table import layers_table, validation_table
from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.runtime import stage
from ltpipe.runtime.frames import csv_bytes, parquet_bytes, write_table


def main(
    *,
    masks: tuple[Path, ...],
    checkpoint: Path,
    output: Path,
    layers: Path | None = None,
    model: str = "model",
) -> None:
    """Check that the masks of a model are what they claim to be, and find what they have emptied.

    Args:
        masks: mask files for the model.
        checkpoint: canonical checkpoint folder.
        output: CSV file to write, one row per mask.
        layers: Parquet file to write, one row per mask and tensor, with the weights it keeps.
        model: name of the model in the table.
    """
    verdicts = validate_files(masks, Checkpoint.open(checkpoint))
    if layers:
        write_table(layers, parquet_bytes(layers_table(model, verdicts)))
    write_table(output, csv_bytes(validation_table(model, verdicts)))
    counts = Counter(verdict.verdict for verdict in verdicts)
    stage.say(f"{model}: " + ", ".join(f"{counts[kind]} {kind}" for kind in ("sound", "warnings", "broken")))


if __name__ == "__main__":
    stage.run(main)
