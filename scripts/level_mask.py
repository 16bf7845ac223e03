"""Make the mask of the next level: prune a fraction of the weights that remain."""

from pathlib import Path

from ltpipe.pruning.masks import load_mask, write_whole_mask
from ltpipe.runtime import stage
from ltpipe.training.computing import TrainingCompute
from ltpipe.training.prune import PruningRule, prune_level
from ltpipe.training.state import read_state
from ltpipe.training.task import read_task


def main(
    *,
    task: Path,
    ranked: Path,
    output: Path,
    mask: Path | None = None,
    replicate: int = 0,
    rule: PruningRule = PruningRule(),  # noqa: B008
    computing: TrainingCompute = TrainingCompute(),  # noqa: B008
) -> None:
    """Make the mask of the next level: prune a fraction of the weights that remain.

    Args:
        task: task file, written by task.py.
        ranked: final state of the previous level, or the state at the rewinding step.
        output: mask file to write.
        mask: mask of the previous level, for a state at the rewinding step.
        replicate: seed of random draws.
        rule: what to prune.
        computing: device, precision and threads; scores are computed on the CPU.
    """
    before = load_mask(mask) if mask else {}
    made = prune_level(read_task(task), read_state(ranked), rule, replicate, computing, before)
    write_whole_mask(output, made)
    stage.say(f"replicate {replicate}: {made.total_kept:,} of {made.total:,} weights remain")


if __name__ == "__main__":
    stage.run(main)
