"""Small trainings for tests; run as a script, one that kills itself.

python trainings.py OUTPUT RECORD step|write NUMBER: kill -9 in the forward pass of that step, or in that write, before
its file gets its name.
"""

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from ltpipe.training import levels, models
from ltpipe.training.computing import TrainingCompute
from ltpipe.training.examples import Examples
from ltpipe.training.live import Callback
from ltpipe.training.loop import train
from ltpipe.training.run import Training, train_fully
from ltpipe.training.settings import TrainingSettings
from ltpipe.training.state import TrainingState, rewind, start_of
from ltpipe.training.task import Task

SIDE, CLASSES = 6, 4


def image_set(count: int, seed: int, channels: int = 1) -> Examples:
    """Noise with a bright row that says the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    images = torch.randn(count, channels, SIDE, SIDE, generator=generator)
    images[torch.arange(count), :, labels] += 1
    return Examples(images, labels)


@dataclass
class Toy(Task):
    """The noise, and a model."""

    make: Callable[[int], nn.Module]
    train: Examples
    validation: Examples
    test: Examples

    def stored(self):
        parts = {part: vars(getattr(self, part)) for part in ("train", "validation", "test")}
        arrays = {f"{part}/{what}": array.numpy() for part, both in parts.items() for what, array in both.items()}
        return arrays, {"model": str(self.make(0))}

    def build(self, seed):
        return self.make(seed)

    def logits(self, model, inputs):
        return model(inputs)

    def kinds(self, model):
        return models.prunable_kinds(model)

    def output(self, model):
        return models.output_layer(model)


def toy(model: str | None = None, train: int = 100, kind: type[Toy] = Toy) -> Toy:
    """With the model of that name, or `Noisy`."""
    make = noisy if model is None else partial(models.build_model, model, (1, SIDE, SIDE), CLASSES)
    return kind(make, image_set(train, 1), image_set(60, 2), image_set(60, 3))


def settings(**changes) -> TrainingSettings:
    given = {
        "optimizer": "adam",
        "learning_rate": 0.01,
        "iterations": 40,
        "batch_size": 12,
        "evaluate_every": 5,
        "seed": 3,
    }
    return TrainingSettings(**(given | changes))


class Noisy(nn.Module):
    """A convolution, running statistics, dropout and a layer on top: all that a state has to hold."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.dropout = nn.Dropout(0.3)
        self.output = nn.Linear(4 * SIDE * SIDE, CLASSES)

    def forward(self, images):
        return self.output(self.dropout(torch.relu(self.norm(self.convolution(images)))).flatten(1))


def noisy(seed: int = 0) -> Noisy:
    with torch.random.fork_rng(devices=[]):
        model = Noisy()
    weights = models.initial_weights(model, seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])
    return model


def half_mask(model: nn.Module) -> dict[str, torch.Tensor]:
    weights = dict(model.named_parameters())
    return levels.prune_globally(
        levels.magnitudes(weights), levels.dense_mask(weights, models.prunable_kinds(model)), "0.5"
    )


CPU = TrainingCompute("cpu")


def noisy_training(save_every: int = 6, **changes) -> Training:
    task, chosen = toy(), settings(**changes)
    model = task.build(0)
    return Training(task, chosen, rewind(start_of(model), half_mask(model)), CPU, save_every)


def trained(
    task: Task,
    chosen: TrainingSettings,
    start: TrainingState,
    callbacks: list[Callback] = (),
    until: int | None = None,
    model: nn.Module | None = None,
) -> TrainingState:
    """The bare loop, without files."""
    return train(model or task.build(0), task.train, task.loss, chosen, start, callbacks, until, CPU)


def before_steps(training: Training, action: Callable[[], object]) -> None:
    """Let `action` run before every forward pass in training mode of the models that the task makes."""
    make = training.task.make

    def hook(module, _):
        if module.training:
            action()

    def made(seed):
        model = make(seed)
        model.register_forward_pre_hook(hook)
        return model

    training.task.make = made


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    output, record, where, number = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    training, left = noisy_training(), [number]

    def count_down(*_):
        left[0] -= 1
        if left[0] == 0:
            _kill()

    if where == "step":
        before_steps(training, count_down)
    else:
        os.fsync = count_down
    train_fully(training, output, record)


if __name__ == "__main__":
    main()
