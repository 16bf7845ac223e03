"""Write a structured ticket as a physically smaller Hugging Face checkpoint."""

from pathlib import Path

from ltpipe.pruning.export import export_smaller
from ltpipe.runtime import stage


def main(*, checkpoint: Path, mask: Path, output: Path) -> None:
    """Write a structured ticket as a physically smaller Hugging Face checkpoint.

    Args:
        checkpoint: canonical checkpoint folder.
        mask: mask of scope heads, channels or blocks, made from it.
        output: folder to write, absent or empty.
    """
    exported = export_smaller(checkpoint, mask, output)
    (before, after), (bytes_before, bytes_after) = exported.parameters, exported.nbytes
    stage.say(f"{output}: {before:,} → {after:,} parameters, {bytes_before:,} → {bytes_after:,} bytes")


if __name__ == "__main__":
    stage.run(main)
