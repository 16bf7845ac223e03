"""Count the scores of all prunable weights, once for all sparsities and scopes."""

from pathlib import Path

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.prunable import Selection
from ltpipe.pruning import kernels
from ltpipe.pruning.histogram import make_histogram, streaming_bytes
from ltpipe.runtime import stage
from ltpipe.runtime.threads import available_threads


def main(
    *,
    checkpoint: Path,
    criterion: str,
    output: Path,
    seed: int | None = None,
    scores: Path | None = None,
    selection: Selection = Selection(),  # noqa: B008
    threads: int = 0,
) -> int:
    """Count the scores of all prunable weights, once for all sparsities and scopes.

    Args:
        checkpoint: canonical checkpoint folder.
        criterion: magnitude, random, or the criterion of the scores.
        output: safetensors file to write.
        seed: seed of a stochastic criterion.
        scores: file that the score stage wrote, if the criterion has a score stage.
        selection: which tensors to prune.
        threads: number of CPU threads; 0 uses all.
    """
    kernels.use_threads(available_threads(threads))
    histogram = make_histogram(Checkpoint.open(checkpoint), criterion, seed, selection, scores)
    histogram.write(output)
    stage.say(f"{criterion}: counted {histogram.total:,} weights in {len(histogram.names)} tensors")
    return streaming_bytes(histogram.bits)


if __name__ == "__main__":
    stage.run(main)
