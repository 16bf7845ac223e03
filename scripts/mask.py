"""Make one mask with exact weight counts."""

from pathlib import Path

from ltpipe.checkpoints.canonical import Checkpoint
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
    options: dict[str, str] = {},  # noqa: B006
    threads: int = 0,
) -> int:
    """Make one mask with exact weight counts.

    Args:
        checkpoint: canonical checkpoint folder.
        histogram: histogram of its scores; it determines criterion, seed and prunable weights.
        scope: where weights compete and in which pattern, for example global (docs/scopes.md).
        sparsity: fraction to prune, 0 to 1; an N:M pattern has its own.
        output: safetensors file to write.
        scores: file that the score stage wrote, if the criterion has a score stage.
        options: names and values of the scope's options (docs/scopes.md).
        threads: number of CPU threads; 0 uses all.
    """
    kernels.use_threads(available_threads(threads))
    made = make_mask(Checkpoint.open(checkpoint), histogram, scope, sparsity, output, scores, options)
    ties = f"; {made.tied:,} tied weights were separated by position" if made.tied else ""
    stage.say(f"{output.stem} {scope}: kept {made.kept:,} of {made.total:,} weights{ties}")
    return made.planned_bytes


if __name__ == "__main__":
    stage.run(main)
