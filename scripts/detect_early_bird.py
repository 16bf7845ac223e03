"""Find where a sequence of masks stops changing."""

from dataclasses import asdict
from pathlib import Path

from ltpipe.analysis.early_bird import Detector, detect
from ltpipe.pruning.foreign import read_any_mask
from ltpipe.runtime import stage
from ltpipe.runtime.jsonfiles import write_record


def main(*, masks: tuple[Path, ...], output: Path, detector: Detector = Detector()) -> None:  # noqa: B008
    """Find where a sequence of masks stops changing.

    Args:
        masks: mask files of one model, or files of bool tensors, earliest first.
        output: JSON file to write.
        detector: when masks count as converged.
    """
    found = detect(map(read_any_mask, masks), detector)
    settings = {**asdict(detector), "threshold": detector.limit, "window": detector.masks}
    write_record(output, {"detector": settings, "masks": [str(path) for path in masks], **asdict(found)})
    stage.say("not converged" if found.converged is None else f"converged at mask {found.converged}")


if __name__ == "__main__":
    stage.run(main)
