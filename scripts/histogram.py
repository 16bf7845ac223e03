"""Count the scores of all prunable weights, once for all sparsities and scopes."""

from pathlib import Path

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.prunable import Preset, Selection
from ltpipe.pruning import kernels
from ltpipe.pruning.histogram import count_checkpoint, streaming_bytes
from ltpipe.runtime import stage
from ltpipe.runtime.threads import available_threads


def main(
    *,
    checkpoint: Path,
    criterion: str,
    output: Path,
    seed: int | None = None,
    scores: Path | None = None,
    preset: Preset = "linear",
    include: tuple[str, ...] = (),
    exclude: tuple[str, ...] = (),
    threads: int = 0,
) -> int:
    """Count the scores of all prunable weights, once for all sparsities and scopes.

    Args:
        checkpoint: canonical checkpoint folder.
        criterion: magnitude, random, or the criterion of the scores.
        output: safetensors file to write.
        seed: seed of a stochastic criterion.
        scores: file that the score stage wrote, if the criterion has a score stage.
        preset: linear or all-weights: which tensors to prune.
        include: patterns of additional tensors to prune.
        exclude: patterns of tensors to leave dense.
        threads: number of CPU threads; 0 uses all.
    """
    kernels.use_threads(available_threads(threads))
    histogram = count_checkpoint(
        Checkpoint.open(checkpoint), criterion, seed, Selection(preset, include, exclude), scores
    )
    histogram.write(output)
    stage.say(f"{criterion}: counted {histogram.total:,} weights in {len(histogram.names)} tensors")
    return streaming_bytes(histogram.bits)


if __name__ == "__main__":
    stage.run(main)
