"""Whole trainings, as stages run them: killed at any moment and started again, they end in the same bytes."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

import torch
from torch import nn

from ltpipe.runtime.errors import UserError
from ltpipe.runtime.files import read_json, write_json
from ltpipe.training.images import ImageData
from ltpipe.training.levels import Tensors, weights_remaining
from ltpipe.training.live import LiveTraining
from ltpipe.training.loop import Callback, train
from ltpipe.training.randomness import digest
from ltpipe.training.settings import Settings
from ltpipe.training.state import Point, TrainingState, read_state, write_state
from ltpipe.training.validate import evaluate, validation


@dataclass(frozen=True)
class LearningRecord:
    """What a training showed.

    Attributes:
        iterations, validation_losses, validation_accuracies: the validation curve; nats an image, fractions.
        early_stop_iteration: where the validation loss is smallest, the first if there are several.
        test_accuracy: of the weights at that iteration, a fraction.
        final_test_accuracy: of the weights at the end.
        weights_remaining: kept / prunable weights; 1 for the dense model.
    """

    iterations: tuple[int, ...]
    validation_losses: tuple[float, ...]
    validation_accuracies: tuple[float, ...]
    early_stop_iteration: int
    test_accuracy: float
    final_test_accuracy: float
    weights_remaining: float

    def write(self, path: Path) -> None:
        """Write as JSON."""
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> "LearningRecord":
        """Read what `write` wrote."""
        return cls(
            **{name: tuple(value) if isinstance(value, list) else value for name, value in read_json(path).items()}
        )


@dataclass(frozen=True)
class Training:
    """One training: what is trained on what, how, from where, with which weights held at 0 (`{}`: none)."""

    model: nn.Module
    data: ImageData
    settings: Settings
    start: TrainingState
    mask: Tensors

    @property
    def identity(self) -> str:
        """SHA-256 of all that the result depends on, so that a resume file of another training is not gone on from."""
        start = self.start
        parts = (start.weights, start.buffers, start.optimizer, start.best, {"rng": start.rng})
        everything = {
            "model": str(self.model),
            "data": [self.data.train.digest, self.data.validation.digest],
            "settings": asdict(self.settings),
            "start": [digest(part) for part in parts],
            "iteration": start.iteration,
            "validation": [asdict(point) for point in start.validation],
            "mask": digest(self.mask),
        }
        return sha256(json.dumps(everything).encode()).hexdigest()


def train_to(training: Training, iteration: int, output: Path, save_every: int) -> TrainingState:
    """Train until `iteration` steps are done and write the state: a rewind point, or a parent of two children."""
    _remove_orphans(output)
    state = _resumed(training, output, save_every, iteration)
    write_state(output, state)
    resume_file(output).unlink(missing_ok=True)
    return state


def train_fully(training: Training, output: Path, record: Path, save_every: int) -> LearningRecord:
    """Train to the end, read the test images once, and write weights and record.

    Args:
        training: what to do.
        output: of the final state, which holds the weights at the early-stop iteration as `best`.
        record: of the learning record.
        save_every: iterations between two resume files; it changes nothing in the result.
    """
    _remove_orphans(output, record)
    state = _resumed(training, output, save_every, training.settings.iterations)
    early, end = _test_accuracies(training, state)
    learned = _recorded(state.validation, state.early_stop, early, end, training.mask)
    write_state(output, state)
    learned.write(record)
    resume_file(output).unlink(missing_ok=True)
    return learned


def resume_file(output: Path) -> Path:
    """Where a training that is under way keeps its state; it is gone when the output is there."""
    return output.with_name(f"{output.name}.resume")


def _resumed(training: Training, output: Path, save_every: int, until: int) -> TrainingState:
    """Train from the resume file if there is one of this training, else from the start."""
    if not training.start.iteration <= until <= training.settings.iterations:
        raise UserError(
            f"cannot train to iteration {until}: training starts at {training.start.iteration} and ends at "
            f"{training.settings.iterations}"
        )
    resume, identity = resume_file(output), training.identity
    found = read_state(resume, identity) if resume.exists() else None
    callbacks = [validation(training.data.validation), _saving(resume, identity, save_every)]
    # A file that is further than this was left by a call with a later `until`.
    start = found if found and found.iteration <= until else training.start
    return train(training.model, training.data.train, training.settings, start, training.mask, callbacks, until)


def _remove_orphans(*outputs: Path) -> None:
    """Remove what a write that was killed left beside outputs and resume files."""
    for path in [*outputs, *(resume_file(output) for output in outputs)]:
        for candidate in path.parent.glob(".*.tmp"):
            if re.fullmatch(rf"\.{re.escape(path.name)}\.\d+\.tmp", candidate.name):
                candidate.unlink()


def _saving(path: Path, identity: str, every: int) -> Callback:
    if every < 1:
        raise UserError(f"save_every: {every} iterations; allowed is 1 and more")

    def save(live: LiveTraining) -> None:
        if live.iteration % every == 0:
            write_state(path, live.state(), identity)

    return save


def _test_accuracies(training: Training, state: TrainingState) -> tuple[float, float]:
    """Of the early-stop weights and of the final ones; the only place where test images are read."""
    test, model = training.data.test, training.model
    _, end = evaluate(model, test)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            tensor.copy_(state.best[name])
    return evaluate(model, test)[1], end


def _recorded(curve: Sequence[Point], early_stop: Point, early: float, end: float, mask: Tensors) -> LearningRecord:
    return LearningRecord(
        tuple(point.iteration for point in curve),
        tuple(point.loss for point in curve),
        tuple(point.accuracy for point in curve),
        early_stop.iteration,
        early,
        end,
        weights_remaining(mask) if mask else 1.0,
    )
