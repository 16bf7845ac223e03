"""Prune a fraction of what is left of a model, trained or not: the mask of the next level."""

from pathlib import Path

from ltpipe.pruning.masks import load_mask, write_whole_mask
from ltpipe.runtime import stage
from ltpipe.training.computing import Computing
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
    computing: Computing = Computing(),  # noqa: B008
) -> None:
    """Prune a fraction of what is left of a model, trained or not: the mask of the next level.

    Args:
        task: file of the task.
        ranked: final state of the level before, or the state at the rewinding step.
        output: mask file to write.
        mask: of the level before, for a state at the rewinding step.
        replicate: seed of what is drawn at random.
        rule: what is pruned.
        computing: how to compute; scores are computed on the CPU.
    """
    before = load_mask(mask) if mask else {}
    made = prune_level(read_task(task), read_state(ranked), rule, replicate, computing, before)
    write_whole_mask(output, made)
    stage.say(f"replicate {replicate}: {made.total_kept:,} of {made.total:,} weights remain")


if __name__ == "__main__":
    stage.run(main)
