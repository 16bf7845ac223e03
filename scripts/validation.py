"""Check that the masks of a model are what they claim to be, and find what they have emptied."""

from collections import Counter
from pathlib import Path

from ltpipe.analysis.validation import validate_files
from ltpipe.analysis.validation_table import layers_table, validation_table
from ltpipe.runtime import stage
from ltpipe.runtime.frames import csv_bytes, parquet_bytes, write_table


def main(
    *,
    masks: tuple[Path, ...],
    manifest: Path,
    output: Path,
    layers: Path | None = None,
    config: Path | None = None,
    model: str = "model",
) -> None:
    """Check that the masks of a model are what they claim to be, and find what they have emptied.

    Args:
        masks: mask files for the model.
        manifest: manifest.json of its canonical checkpoint.
        output: CSV file to write, one row per mask.
        layers: Parquet file to write, one row per mask and tensor, with the weights it keeps.
        config: config.json of the checkpoint, which gives the size of attention heads.
        model: name of the model in the table.
    """
    verdicts = validate_files(masks, manifest, config)
    if layers:
        write_table(layers, parquet_bytes(layers_table(model, verdicts)))
    write_table(output, csv_bytes(validation_table(model, verdicts)))
    counts = Counter(verdict.verdict for verdict in verdicts)
    stage.say(f"{model}: " + ", ".join(f"{counts[kind]} {kind}" for kind in ("sound", "warnings", "broken")))


if __name__ == "__main__":
    stage.run(main)
