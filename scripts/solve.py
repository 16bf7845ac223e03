"""Prune a checkpoint by a solver: a mask, and the values of the weights that it keeps."""

from pathlib import Path

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.prunable import Selection
from ltpipe.evaluation.computing import ComputeSettings
from ltpipe.runtime import stage
from ltpipe.solving.solve import solve_checkpoint


def main(
    *,
    checkpoint: Path,
    solver: str,
    scope: str,
    sparsity: str,
    sequences: Path,
    mask: Path,
    solution: Path,
    allocation: Path | None = None,
    options: dict[str, str] = {},  # noqa: B006
    scope_options: dict[str, str] = {},  # noqa: B006
    selection: Selection = Selection(),  # noqa: B008
    settings: ComputeSettings = ComputeSettings(),  # noqa: B008
) -> int:
    """Prune a checkpoint by a solver: a mask, and the values of the weights that it keeps.

    Args:
        checkpoint: canonical checkpoint folder.
        solver: name of the solver.
        scope: row, layer, NofM or an allocation.
        sparsity: fraction to prune.
        sequences: calibration sequences made with its tokenizer.
        mask: mask file to write.
        solution: solution file to write.
        allocation: mask of a criterion with the same scope and sparsity, if the scope is an allocation.
        options: options of the solver.
        scope_options: options of the scope.
        selection: which tensors to prune.
        settings: how to compute.
    """
    solved = solve_checkpoint(
        Checkpoint.open(checkpoint),
        solver,
        scope,
        sparsity,
        sequences,
        mask,
        solution,
        selection,
        settings,
        options,
        scope_options,
        allocation,
    )
    before, after = solved.errors
    stage.say(
        f"{solver} {scope} {sparsity}: kept {solved.kept:,} of {solved.total:,} weights; mean relative error of "
        f"outputs {before:.4f} with the mask alone, {after:.4f} with the values of kept weights"
    )
    return solved.planned_bytes


if __name__ == "__main__":
    stage.run(main)
