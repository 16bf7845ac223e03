"""Train from the initial weights to step k, the state that levels are rewound to."""

from pathlib import Path

from ltpipe.runtime import stage
from ltpipe.training.computing import TrainingCompute
from ltpipe.training.plugin import Plugin
from ltpipe.training.run import Training, train_to
from ltpipe.training.settings import TrainingSettings
from ltpipe.training.state import start_of
from ltpipe.training.task import read_task


def main(
    *,
    task: Path,
    output: Path,
    settings: TrainingSettings,
    step: int = 0,
    trainer_fn: str | None = None,
    save_every: int = 1000,
    computing: TrainingCompute = TrainingCompute(),  # noqa: B008
) -> None:
    """Train from the initial weights to step k, the state that levels are rewound to.

    Args:
        task: task file, written by task.py.
        output: safetensors file to write.
        settings: settings of the training; its seed is the replicate's.
        step: the step k.
        trainer_fn: module:function of your own training loop.
        save_every: iterations between saves that a killed training can resume from.
        computing: device, precision and threads.
    """
    learned = read_task(task)
    start = start_of(learned.start(settings.seed))
    training = Training(learned, settings, start, computing, save_every, plugin=trainer_fn and Plugin(trainer_fn))
    train_to(training, step, output)
    if computing.is_first:
        stage.say(f"replicate {settings.seed}: rewinding point after {step} iterations")


if __name__ == "__main__":
    stage.run(main)
