"""Measure the test error along the line between two trainings of a level."""

from pathlib import Path

from ltpipe.runtime import stage
from ltpipe.training.computing import TrainingCompute
from ltpipe.training.connect import errors_between
from ltpipe.training.connectivity import Connectivity
from ltpipe.training.state import read_state
from ltpipe.training.task import read_task


def main(
    *,
    task: Path,
    first: Path,
    second: Path,
    output: Path,
    training: str = "training",
    replicate: int = 0,
    level: int = 0,
    branches: tuple[str, str] = ("ticket", "order-1"),
    computing: TrainingCompute = TrainingCompute(),  # noqa: B008
) -> None:
    """Measure the test error along the line between two trainings of a level.

    Args:
        task: task file, written by task.py.
        first: final state of the first training.
        second: final state of the second training.
        output: JSON file to write.
        training: name of their training.
        replicate: their replicate.
        level: their level.
        branches: names of their branches.
        computing: device, precision and threads.
    """
    errors = errors_between(read_task(task), read_state(first), read_state(second), computing)
    line = Connectivity.of(training, replicate, level, branches, errors)
    line.write(output)
    stage.say(f"{training} {replicate}, level {level}: barrier {100 * line.barrier:.2f} points")


if __name__ == "__main__":
    stage.run(main)
