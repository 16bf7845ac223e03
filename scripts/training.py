"""Train one branch of a level to the end: a ticket, a control, or a ticket with another data order."""

from dataclasses import replace
from pathlib import Path

from ltpipe.pruning.masks import load_mask
from ltpipe.runtime import stage
from ltpipe.training.branches import Level, Rewind, training_of
from ltpipe.training.computing import TrainingCompute
from ltpipe.training.distillation import Teaching
from ltpipe.training.gradual import Schedule
from ltpipe.training.plugin import Plugin
from ltpipe.training.run import TrainingName, train_fully
from ltpipe.training.settings import TrainingSettings
from ltpipe.training.state import read_state
from ltpipe.training.task import read_task


def main(
    *,
    task: Path,
    point: Path,
    output: Path,
    record: Path,
    settings: TrainingSettings,
    mask: Path | None = None,
    trained: Path | None = None,
    teacher: Path | None = None,
    rewind: Rewind = "weights",
    trainer_fn: str | None = None,
    save_every: int = 1000,
    gradual: Schedule = Schedule(),  # noqa: B008
    teaching: Teaching = Teaching(),  # noqa: B008
    computing: TrainingCompute = TrainingCompute(),  # noqa: B008
    named: TrainingName = TrainingName(),  # noqa: B008
) -> None:
    """Train one branch of a level to the end: a ticket, a control, or a ticket with another data order.

    Args:
        task: task file, written by task.py.
        point: state at the rewinding step.
        output: safetensors file for the final state.
        record: JSON file for the learning record.
        settings: settings of the training; its seed is the replicate's.
        mask: mask of the level; level 0 has none.
        trained: final state of the previous level, for rewinding modes that keep its weights.
        teacher: final state of the dense model, for branch distilled.
        rewind: what is rewound to the rewinding step.
        trainer_fn: module:function of your own training loop.
        save_every: iterations between saves that a killed training can resume from.
        gradual: when branch gradual prunes.
        teaching: how branch distilled learns.
        computing: device, precision and threads.
        named: training, replicate, level and branch.
    """
    level = Level(
        read_task(task),
        named,
        read_state(point),
        load_mask(mask) if mask else {},
        read_state(trained) if trained else None,
        read_state(teacher) if teacher else None,
    )
    plugin = Plugin(trainer_fn) if trainer_fn else None
    training = training_of(level, settings, rewind, gradual, teaching)
    training = replace(training, computing=computing, save_every=save_every, plugin=plugin)
    learned = train_fully(training, output, record, named, level.point.iteration)
    if computing.is_first:
        stage.say(str(learned))


if __name__ == "__main__":
    stage.run(main)
