"""Say how much the masks of a model have in common, and how much they would by chance."""

from pathlib import Path

from ltpipe.analysis.overlap_tables import overlap_tables
from ltpipe.runtime import stage
from ltpipe.runtime.frames import write_csv, write_parquet


def main(*, masks: tuple[Path, ...], output: Path, layers: Path, model: str = "model") -> None:
    """Say how much the masks of a model have in common, and how much they would by chance.

    Args:
        masks: mask files of one model; those that differ in one of criterion, scope, seed, sparsity are compared.
        output: CSV file to write, one row a pair.
        layers: Parquet file to write, one row a pair and tensor.
        model: what the tables call the model.
    """
    pairs, by_tensor = overlap_tables(model, masks)
    write_parquet(by_tensor, layers)
    write_csv(pairs, output)
    stage.say(f"{model}: compared {len(pairs)} pairs of {len(masks)} masks")


if __name__ == "__main__":
    stage.run(main)
