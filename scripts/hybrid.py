"""Add up the normalised scores of several criteria."""

from pathlib import Path

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.prunable import Selection
from ltpipe.runtime import stage
from ltpipe.scoring.hybrid import hybrid_parts, make_hybrid


def main(
    *,
    checkpoint: Path,
    name: str,
    scores: tuple[str, ...],
    weights: tuple[float, ...],
    output: Path,
    selection: Selection = Selection(),  # noqa: B008
) -> None:
    """Add up the normalised scores of several criteria.

    Args:
        checkpoint: canonical checkpoint folder.
        name: name of the sum.
        scores: files that the score stage wrote, or the word magnitude for magnitudes.
        weights: weight of each score, a number above 0.
        output: safetensors file to write.
        selection: which tensors to prune.
    """
    parts = hybrid_parts(scores, weights)
    make_hybrid(Checkpoint.open(checkpoint), name, parts, selection, output)
    stage.say(f"{name}: " + " + ".join(f"{part.weight:g} x {Path(part.scores).stem}" for part in parts))


if __name__ == "__main__":
    stage.run(main)
