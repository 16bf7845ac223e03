"""Score all prunable weights by one criterion, once for all sparsities and scopes."""

from pathlib import Path

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.prunable import Selection
from ltpipe.evaluation.computing import ComputeSettings
from ltpipe.runtime import stage
from ltpipe.scoring.score import score_checkpoint


def main(
    *,
    checkpoint: Path,
    criterion: str,
    output: Path,
    sequences: Path | None = None,
    selection: Selection = Selection(),  # noqa: B008
    options: dict[str, str] = {},  # noqa: B006
    settings: ComputeSettings = ComputeSettings(),  # noqa: B008
) -> int | None:
    """Score all prunable weights by one criterion, once for all sparsities and scopes.

    Args:
        checkpoint: canonical checkpoint folder.
        criterion: a criterion with a score stage, for example fisher or wanda.
        output: safetensors file to write.
        sequences: calibration sequences made with the checkpoint's tokenizer, if the criterion needs data.
        selection: which tensors to prune.
        options: names and values of the criterion's options (docs/criteria.md).
        settings: how to compute.
    """
    planned = score_checkpoint(Checkpoint.open(checkpoint), criterion, output, selection, sequences, settings, options)
    stage.say(f"{criterion}: scored with a planned peak of {planned.total / 2**20:,.0f} MiB of tensors on the device")
    return planned.total


if __name__ == "__main__":
    stage.run(main)
