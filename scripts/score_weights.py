"""Score all prunable weights by one criterion, once for every sparsity and scope."""

from pathlib import Path

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.prunable import Preset, Selection
from ltpipe.evaluation.computing import Settings
from ltpipe.runtime import stage
from ltpipe.scoring.score import score_checkpoint


def main(
    *,
    checkpoint: Path,
    criterion: str,
    output: Path,
    sequences: Path | None = None,
    preset: Preset = "linear",
    include: tuple[str, ...] = (),
    exclude: tuple[str, ...] = (),
    options: dict[str, str] = {},  # noqa: B006
    settings: Settings = Settings(),  # noqa: B008
) -> int | None:
    """Score all prunable weights by one criterion, once for every sparsity and scope.

    Args:
        checkpoint: canonical checkpoint folder.
        criterion: one with a score stage, fisher or wanda for example.
        output: safetensors file to write.
        sequences: calibration sequences made with the checkpoint's tokenizer, if the criterion needs data.
        preset: linear or all-weights.
        include: patterns of further tensors to prune.
        exclude: patterns of tensors to leave alone.
        options: of the criterion, names and values (docs/criteria.md).
        settings: how to compute.
    """
    selection = Selection(preset, include, exclude)
    planned = score_checkpoint(Checkpoint.open(checkpoint), criterion, output, selection, sequences, settings, options)
    stage.say(f"{criterion}: scored with a planned peak of {planned.total / 2**20:,.0f} MiB of tensors on the device")
    return planned.total


if __name__ == "__main__":
    stage.run(main)
