"""Write a structured ticket as a physically smaller Hugging Face checkpoint."""

from pathlib import Path

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.exporting.smaller import export_smaller
from ltpipe.runtime import stage


def main(*, checkpoint: Path, mask: Path, output: Path) -> None:
    """Write a structured ticket as a physically smaller Hugging Face checkpoint.

    Args:
        checkpoint: canonical checkpoint folder.
        mask: mask of scope heads, channels or blocks, made from this checkpoint.
        output: new or empty folder to write.
    """
    stage.say(str(export_smaller(Checkpoint.open(checkpoint), mask, output)))


if __name__ == "__main__":
    stage.run(main)
