"""Where each branch of a level starts and how it differs from the ticket."""

from dataclasses import dataclass, replace
from typing import Literal

from ltpipe.runtime.determinism import stable_seed
from ltpipe.runtime.errors import UserError
from ltpipe.training.controls import random_mask, shuffled
from ltpipe.training.distillation import Distillation, Teaching
from ltpipe.training.gradual import Gradual, Schedule
from ltpipe.training.levels import Tensors
from ltpipe.training.record import Branch
from ltpipe.training.run import Training, TrainingName
from ltpipe.training.settings import TrainingSettings
from ltpipe.training.state import TrainingState, rewind, start_of
from ltpipe.training.task import Task

Rewind = Literal["weights", "learning-rate", "none"]
"""What rewinds to step k between levels.

- `weights`: weights, schedule and data order (Frankle & Carbin 2019 with k = 0, Frankle et al. 2020).
- `learning-rate`: everything but the weights (Renda et al. 2020, 2003.02389).
- `none`: neither weights nor learning rate. The trained weights are fine-tuned at the last learning rate on the data
  from step k to the end (Han et al. 2015, 1506.02626).

All three start with a fresh optimizer.
"""


@dataclass(frozen=True)
class Level:
    """The inputs to a branch of a level.

    Attributes:
        task: the training's task.
        named: training, replicate, level and branch.
        point: the state at step k.
        mask: the mask of this level or of a donor; `{}` at level 0.
        trained: the previous level's ticket, for rewinding modes that keep its weights.
        teacher: the dense model's state, for `distilled`.
    """

    task: Task
    named: TrainingName
    point: TrainingState
    mask: Tensors
    trained: TrainingState | None = None
    teacher: TrainingState | None = None


def training_of(
    level: Level, settings: TrainingSettings, mode: Rewind, gradual: Schedule, teaching: Teaching
) -> Training:
    """Return the training of a branch.

    - `ticket` starts as `mode` says.
    - `shuffled-N`, `random-N` and `transplanted-…` start the same way under a different mask.
    - `order-N` sees the data in a different order from step k on.
    - `reinitialised-N` starts at iteration 0 from new initial weights under the same mask.
    - `gradual` continues from step k without a mask and is pruned while it trains.
    - `distilled` is the ticket, taught by the dense model with its weights at early stopping.

    Raises:
        UserError: the branch does not exist at this level, or an input it needs is missing.
    """
    named = level.named
    try:
        branch = Branch.named(named.branch)
    except ValueError as error:
        raise UserError(str(error)) from None
    if named.level == 0 and branch.kind not in ("ticket", "order"):
        raise UserError(f"level 0 has no branch '{named.branch}'; use ticket or order-N")
    if named.level:
        _check_mask(level.mask, level.point.weights)
    control_seed = stable_seed(named.replicate, named.branch)
    kept_rates = settings if mode != "none" or named.level == 0 else _last_rate(settings)
    match branch.kind:
        case "shuffled":
            start = _rewound(level, mode, shuffled(level.mask, control_seed))
        case "random":
            start = _rewound(level, mode, random_mask(level.mask, control_seed))
        case "reinitialised":
            return Training(level.task, settings, rewind(start_of(level.task.build(control_seed)), level.mask))
        case "gradual":
            counts = {name: int(kept.sum()) for name, kept in level.mask.items()}
            _check_schedule(gradual, level.point.iteration, settings.iterations)
            unseen = replace(level.point, validation=(), best={})  # up to step k the model was dense
            return Training(level.task, settings, unseen, gradual=Gradual(counts, gradual))
        case _:
            start = _rewound(level, mode, level.mask)
    training = Training(level.task, kept_rates, start)
    if branch.kind == "order":
        return replace(training, settings=replace(kept_rates, seed=control_seed))
    if branch.kind == "distilled":
        if level.teacher is None:
            raise UserError("branch 'distilled' needs the dense model's state; pass --teacher")
        return replace(training, distillation=Distillation(level.teacher.best, teaching))
    return training


def _rewound(level: Level, mode: Rewind, mask: Tensors) -> TrainingState:
    if level.named.level == 0:
        return level.point
    if mode == "weights":
        return rewind(level.point, mask)
    if level.trained is None:
        raise UserError(f"rewind mode '{mode}' needs the previous level's ticket; pass --trained")
    return rewind(level.point, mask, level.trained)


def _last_rate(settings: TrainingSettings) -> TrainingSettings:
    rate = settings.rate(settings.iterations - 1)
    return replace(settings, learning_rate=rate, warmup=0, milestones=())


def _check_mask(mask: Tensors, weights: Tensors) -> None:
    if not mask:
        raise UserError("a level above 0 needs a mask; pass --mask")
    for name, kept in mask.items():
        if name not in weights or weights[name].shape != kept.shape:
            raise UserError(
                f"mask: this model has no weight '{name}' of shape {tuple(kept.shape)}; use a mask made for this model"
            )


def _check_schedule(gradual: Schedule, first: int, last: int) -> None:
    if not (first <= gradual.begin and gradual.end <= last):
        raise UserError(
            f"gradual: begin {gradual.begin}, end {gradual.end} lies outside training; use iterations from {first} to "
            f"{last}"
        )
