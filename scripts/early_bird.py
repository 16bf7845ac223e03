"""Train a dense model until masks drawn from it stop changing."""

from pathlib import Path

from ltpipe.analysis.early_bird import Detector
from ltpipe.analysis.early_bird_training import Drawing, watch_training
from ltpipe.pruning.masks import write_whole_mask
from ltpipe.runtime import stage
from ltpipe.training.computing import TrainingCompute
from ltpipe.training.run import Training, TrainingName
from ltpipe.training.settings import TrainingSettings
from ltpipe.training.state import start_of
from ltpipe.training.task import read_task


def main(
    *,
    task: Path,
    output: Path,
    ticket: Path,
    settings: TrainingSettings,
    drawing: Drawing,
    training: str = "training",
    detector: Detector = Detector(),  # noqa: B008
    computing: TrainingCompute = TrainingCompute(),  # noqa: B008
) -> None:
    """Train a dense model until masks drawn from it stop changing.

    Args:
        task: task file, written by task.py.
        output: JSON file for the detection.
        ticket: safetensors file for the last mask.
        settings: settings of the training; its seed is the replicate's.
        drawing: which masks to draw.
        training: name of the training.
        detector: when masks count as converged.
        computing: device, precision and threads.
    """
    learned = read_task(task)
    run = Training(learned, settings, start_of(learned.start(settings.seed)), computing)
    found, mask = watch_training(run, drawing, detector, TrainingName(training, settings.seed))
    write_whole_mask(ticket, mask)
    found.write(output)
    when = "not converged" if found.converged is None else f"converged after {found.converged} iterations"
    stage.say(f"{training} {settings.seed}, sparsity {drawing.sparsity}: {when}")


if __name__ == "__main__":
    stage.run(main)
