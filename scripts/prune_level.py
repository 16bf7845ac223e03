"""Prune a fraction of what is left of a trained model: the mask of the next level."""

from pathlib import Path

from ltpipe.pruning.masks import write_whole_mask
from ltpipe.runtime import stage
from ltpipe.training.computing import Computing
from ltpipe.training.prune import PruningRule, prune_level
from ltpipe.training.state import read_state
from ltpipe.training.task import read_task


def main(
    *,
    task: Path,
    trained: Path,
    output: Path,
    replicate: int = 0,
    rule: PruningRule = PruningRule(),  # noqa: B008
    computing: Computing = Computing(),  # noqa: B008
) -> None:
    """Prune a fraction of what is left of a trained model: the mask of the next level.

    Args:
        task: file of the task.
        trained: final state of the level before.
        output: mask file to write.
        replicate: seed of what is drawn at random.
        rule: what is pruned.
        computing: how to compute; scores are computed on the CPU.
    """
    mask = prune_level(read_task(task), read_state(trained), rule, replicate, computing)
    write_whole_mask(output, mask)
    stage.say(f"replicate {replicate}: {mask.total_kept:,} of {mask.total:,} weights remain")


if __name__ == "__main__":
    stage.run(main)
