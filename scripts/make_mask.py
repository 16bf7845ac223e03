"""Make one mask, exact to the last weight."""

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
    """Make one mask, exact to the last weight.

    Args:
        checkpoint: canonical checkpoint folder.
        histogram: scores counted on it; says criterion, seed and prunable weights.
        scope: where weights compete and in what pattern, global for example (docs/scopes.md).
        sparsity: fraction to prune, 0 to 1; an N:M pattern has one of its own.
        output: safetensors file to write.
        scores: what the score stage wrote, if the criterion has one.
        options: of the scope, names and values (docs/scopes.md).
        threads: CPU threads; 0 takes all.
    """
    kernels.use_threads(available_threads(threads))
    made = make_mask(Checkpoint.open(checkpoint), histogram, scope, sparsity, output, scores, options)
    ties = f"; only their place told {made.tied:,} of them apart" if made.tied else ""
    stage.say(f"{output.stem} {scope}: kept {made.kept:,} of {made.total:,} weights{ties}")
    return made.planned_bytes


if __name__ == "__main__":
    stage.run(main)
