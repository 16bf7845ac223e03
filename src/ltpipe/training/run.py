"""Whole trainings, as stages run them: killed at any time and restarted, they produce the same bytes."""

import json
import logging
import math
import time
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path

from torch import nn

from ltpipe.runtime.errors import DamagedFileError, UserError
from ltpipe.runtime.files import remove
from ltpipe.runtime.progress import counting
from ltpipe.runtime.provenance import provenance
from ltpipe.training.computing import TrainingCompute
from ltpipe.training.distillation import Distillation
from ltpipe.training.gradual import Gradual
from ltpipe.training.live import Callback, LiveTraining, load_values
from ltpipe.training.loop import Loss, Trainer, take_steps, train
from ltpipe.training.plugin import Plugin
from ltpipe.training.randomness import digest
from ltpipe.training.record import LearningRecord
from ltpipe.training.settings import TrainingSettings
from ltpipe.training.state import TrainingState, read_state, write_state
from ltpipe.training.task import Task
from ltpipe.training.validate import evaluate, validation

logger = logging.getLogger("ltpipe")


@dataclass(frozen=True)
class TrainingName:
    """Identify one run: a branch of a training's replicate at a level."""

    training: str = "training"
    replicate: int = 0
    level: int = 0
    branch: str = "ticket"


@dataclass(frozen=True)
class Training:
    """One training: what to train, how, and from which state.

    Attributes:
        task: gives model, examples and loss.
        settings: the training's settings.
        start: the state to start from; its mask says which weights stay 0.
        computing: how to compute.
        save_every: iterations between two resume files; does not change the result.
        gradual: prune while training, if given.
        distillation: learn from a teacher too, if given.
        plugin: the user's own training loop, if given.
    """

    task: Task
    settings: TrainingSettings
    start: TrainingState
    computing: TrainingCompute = field(default_factory=TrainingCompute)
    save_every: int = 1000
    gradual: Gradual | None = None
    distillation: Distillation | None = None
    plugin: Plugin | None = None

    def __post_init__(self) -> None:
        """Reject values out of range."""
        if self.save_every < 1:
            raise UserError(f"save_every: {self.save_every} is not allowed; use 1 iteration or more")

    @property
    def identity(self) -> str:
        """SHA-256 of everything the result depends on; it prevents resuming from another training's file."""
        start, taught = self.start, self.distillation
        parts = (start.weights, start.buffers, start.optimizer, start.mask, start.best)
        everything = {
            "task": self.task.identity,
            "settings": asdict(self.settings),
            "start": [digest(part) for part in parts],
            "iteration": start.iteration,
            "validation": [asdict(point) for point in start.validation],
            "computing": [self.computing.mixed_precision, self.computing.processes, self.computing.threads],
            "gradual": self.gradual and asdict(self.gradual),
            "distillation": taught and [digest(taught.teacher), asdict(taught.teaching)],
            "plugin": self.plugin and self.plugin.identity,
        }
        return sha256(json.dumps(everything).encode()).hexdigest()


def train_to(training: Training, iteration: int, output: Path) -> TrainingState:
    """Train until `iteration` steps are done and write the state: a rewind point or the parent of two children."""
    _, state = _resumed(training, output, iteration)
    if training.computing.is_first:
        write_state(output, state)
        remove(resume_file(output))
    return state


def train_fully(
    training: Training, output: Path, record: Path, named: TrainingName = TrainingName(), rewind_step: int = 0
) -> LearningRecord:
    """Train to the end, evaluate the test examples once, and write state and record.

    Args:
        training: the training to run.
        output: path of the final state. It holds the weights at the early-stop iteration as `best`. It has no optimizer
            state, which would be half of the file: no training continues from it.
        record: path of the learning record.
        named: which training this is, for the record.
        rewind_step: the training's k, for the record.
    """
    begun = time.perf_counter()
    model, state = _resumed(training, output, training.settings.iterations)
    with training.computing.alone():
        learned = _recorded(training, model, state, named, rewind_step, begun)
    if training.computing.is_first:
        write_state(output, replace(state, optimizer={}))
        learned.write(record)
        remove(resume_file(output))
    return learned


def resume_file(output: Path) -> Path:
    """Return the path where a training in progress keeps its state; removed once the output is written."""
    return output.with_name(f"{output.name}.resume")


def _resumed(training: Training, output: Path, until: int) -> tuple[nn.Module, TrainingState]:
    """Train from the resume file if this training left one, else from the start."""
    start, settings, computing = training.start, training.settings, training.computing
    if not start.iteration <= until <= settings.iterations:
        raise UserError(
            f"cannot train to iteration {until}: training starts at {start.iteration} and ends at {settings.iterations}"
        )
    if settings.batch_size % computing.processes:
        raise UserError(
            f"batch_size: {settings.batch_size} is not allowed; use a multiple of the {computing.processes} processes"
        )
    resume, identity = resume_file(output), training.identity
    found = saved_state(resume, identity)
    computing.wait()  # nobody writes the file while another process still reads it
    # A file beyond `until` was left by a call with a later `until`.
    begin = found if found and found.iteration <= until else start
    model = training.task.build(0)
    callbacks = _callbacks(training, resume, identity)
    examples = training.task.train
    loss, trainer = _loss(training), _trainer(training)
    with counting(until, begin.iteration, "training", "step") as took:
        if computing.is_first:
            callbacks.append(lambda live: took(live.iteration))
        state = train(model, examples, loss, settings, begin, callbacks, until, computing, trainer)
    return model, state


def saved_state(resume: Path, identity: str) -> TrainingState | None:
    """Read the state that a killed training left; ignore an unreadable file, such as one of an older format."""
    try:
        return read_state(resume, identity) if resume.exists() else None
    except DamagedFileError as error:
        logger.warning("%s; starting again", error)
        return None


def _loss(training: Training) -> Loss:
    if training.distillation is None:
        return training.task.loss
    return training.distillation.loss(training.task, training.computing.placed_on)


def _trainer(training: Training) -> Trainer:
    return training.plugin.load() if training.plugin else take_steps


def _callbacks(training: Training, resume: Path, identity: str) -> list[Callback]:
    """Return the callbacks in order: prune, validate, save. A saved state is thus pruned and validated."""
    gradual, computing = training.gradual, training.computing
    examples = training.task.validation.to(computing.placed_on)
    callbacks = [gradual.callback()] if gradual else []
    callbacks.append(validation(training.task, examples, gradual.schedule.end if gradual else 0))
    if computing.is_first:
        callbacks.append(saving(resume, identity, training.save_every))
    return callbacks


def saving(path: Path, identity: str, every: int) -> Callback:
    """Return a callback that saves the state, for `saved_state`, after every `every` iterations."""

    def save(live: LiveTraining) -> None:
        if live.iteration and live.iteration % every == 0:
            write_state(path, live.state(shared=True), identity)

    return save


def _recorded(
    training: Training, model: nn.Module, state: TrainingState, named: TrainingName, rewind_step: int, begun: float
) -> LearningRecord:
    """Return the record. Only here does a training read test examples."""
    task, curve = training.task, state.validation
    test = task.test.to(training.computing.placed_on)
    final = evaluate(task, model, test)
    load_values(model, state.best)
    best = evaluate(task, model, test)
    if not all(math.isfinite(loss) for loss, _ in (final, best)):
        raise UserError(f"training diverged: the test losses are {best[0]} and {final[0]}; lower the learning rate")
    total = sum(model.get_parameter(name).numel() for name in state.mask or task.kinds(model))
    return LearningRecord(
        **asdict(named),
        iterations=tuple(point.iteration for point in curve),
        validation_losses=tuple(point.loss for point in curve),
        validation_accuracies=tuple(point.accuracy for point in curve),
        early_stop_iteration=min(curve, key=lambda point: point.loss).iteration,
        test_loss=best[0],
        test_accuracy=best[1],
        final_test_loss=final[0],
        final_test_accuracy=final[1],
        test_majority=test.majority,
        kept=sum(int(kept.sum()) for kept in state.mask.values()) if state.mask else total,
        total=total,
        seconds=time.perf_counter() - begun,
        provenance=provenance(
            {"task": task.identity, "start": digest(training.start.weights)},
            {
                **asdict(training.settings),
                "milestones": list(training.settings.milestones),
                **asdict(training.computing),
                "rewind_step": rewind_step,
            },
        ),
    )
