"""Make one mask that prunes exactly round(sparsity x N) weights."""

from pathlib import Path

from ltpipe.pruning import kernels
from ltpipe.pruning.build import make_mask
from ltpipe.runtime import stage
from ltpipe.runtime.threads import available_threads


def main(
    *,
    checkpoint: Path,
    histogram: Path,
    scope: str,
    sparsity: str,
    output: Path,
    scores: Path | None = None,
    threads: int = 0,
) -> int:
    """Make one mask that prunes exactly round(sparsity x N) weights.

    Args:
        checkpoint: canonical checkpoint folder.
        histogram: scores counted on it; says criterion, seed and prunable weights.
        scope: where weights compete, global or layer.
        sparsity: fraction to prune, 0 to 1.
        output: safetensors file to write.
        scores: what the score stage wrote, if the criterion has one.
        threads: CPU threads; 0 takes all.
    """
    kernels.use_threads(available_threads(threads))
    made = make_mask(checkpoint, histogram, scope, sparsity, output, scores)
    stage.say(f"{output.stem} {scope}: kept {made.kept:,} of {made.total:,} weights")
    return made.planned_bytes


if __name__ == "__main__":
    stage.run(main)
