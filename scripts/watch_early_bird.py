"""Train a dense model until masks drawn from it stop changing."""

from pathlib import Path

from ltpipe.analysis.early_bird import Detector
from ltpipe.analysis.early_bird_training import Drawing, watch_training
from ltpipe.pruning.masks import write_whole_mask
from ltpipe.runtime import stage
from ltpipe.training.computing import Computing
from ltpipe.training.run import Named, Training
from ltpipe.training.settings import Settings
from ltpipe.training.state import start_of
from ltpipe.training.task import read_task


def main(
    *,
    task: Path,
    output: Path,
    ticket: Path,
    settings: Settings,
    drawing: Drawing,
    study: str = "study",
    detector: Detector = Detector(),  # noqa: B008
    computing: Computing = Computing(),  # noqa: B008
) -> None:
    """Train a dense model until masks drawn from it stop changing.

    Args:
        task: task file, written by prepare_task.py.
        output: JSON file for the detection.
        ticket: safetensors file for the last mask.
        settings: settings of the training; its seed is the replicate's.
        drawing: which masks to draw.
        study: name of the study.
        detector: when masks count as converged.
        computing: device, precision and threads.
    """
    learned = read_task(task)
    training = Training(learned, settings, start_of(learned.start(settings.seed)), computing)
    found, mask = watch_training(training, drawing, detector, Named(study, settings.seed))
    write_whole_mask(ticket, mask)
    found.write(output)
    when = "not converged" if found.converged is None else f"converged after {found.converged} iterations"
    stage.say(f"{study} {settings.seed}, sparsity {drawing.sparsity}: {when}")


if __name__ == "__main__":
    stage.run(main)
