"""Small trainings for tests; run as a script, one that kills itself.

python trainings.py OUTPUT RECORD step|write NUMBER: kill -9 in the forward pass of that step, or in that write, before
its file gets its name.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from ltpipe.training import levels, models
from ltpipe.training.images import ImageData, ImageSet
from ltpipe.training.run import Training, train_fully
from ltpipe.training.settings import Settings
from ltpipe.training.state import rewind, start_of

SIDE, CLASSES = 6, 4


def image_set(count: int, seed: int, channels: int = 1) -> ImageSet:
    """Noise with a bright row that says the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    images = torch.randn(count, channels, SIDE, SIDE, generator=generator)
    images[torch.arange(count), :, labels] += 1
    return ImageSet(images, labels)


def image_data(train: int = 100) -> ImageData:
    return ImageData(image_set(train, 1), image_set(60, 2), image_set(60, 3), CLASSES)


def settings(**changes) -> Settings:
    given = {
        "optimizer": "adam",
        "learning_rate": 0.01,
        "iterations": 40,
        "batch_size": 12,
        "evaluate_every": 5,
        "seed": 3,
    }
    return Settings(**(given | changes))


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


def noisy_training(**changes) -> Training:
    model, chosen = noisy(), settings(**changes)
    mask = half_mask(model)
    return Training(model, image_data(), chosen, rewind(start_of(model, chosen.seed), mask), mask)


def on_training_step(model: nn.Module, action: Callable[[], object]) -> None:
    """Let `action` run before every forward pass in training mode."""

    def hook(module, _):
        if module.training:
            action()

    model.register_forward_pre_hook(hook)


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    output, record, where, number = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    torch.set_num_threads(1)
    training, left = noisy_training(), [number]

    def count_down(*_):
        left[0] -= 1
        if left[0] == 0:
            _kill()

    if where == "step":
        on_training_step(training.model, count_down)
    else:
        os.fsync = count_down
    train_fully(training, output, record, save_every=6)


if __name__ == "__main__":
    main()
