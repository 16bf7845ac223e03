"""The training loop. It never grows: what is done beside training arrives as callbacks."""

from collections.abc import Callable, Iterator, Sequence
from itertools import count

import torch
from torch import nn
from torch.nn import functional

from ltpipe.runtime.errors import UserError
from ltpipe.training.images import ImageSet
from ltpipe.training.levels import Tensors
from ltpipe.training.live import LiveTraining
from ltpipe.training.randomness import generator
from ltpipe.training.settings import Settings
from ltpipe.training.state import TrainingState

Callback = Callable[[LiveTraining], None]
"""Called before the first step and after every step, in evaluation mode or training mode as it sets it."""


def train(
    model: nn.Module,
    images: ImageSet,
    settings: Settings,
    start: TrainingState,
    mask: Tensors,
    callbacks: Sequence[Callback] = (),
    until: int | None = None,
) -> TrainingState:
    """Train from `start` until so many iterations are done in all, with pruned weights at exactly 0 after every step.

    Torch's global generator is set from the state inside, and left as it was.

    Args:
        model: its weights and buffers are overwritten.
        images: to train on.
        settings: of the training.
        start: where to begin; it is not changed.
        mask: names to bool tensors, True where a weight is kept; `{}` trains the dense model.
        callbacks: in the order in which they are called.
        until: None is the end of the training.
    """
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(start.rng)
        live = LiveTraining(model.train(), settings, start, mask)
        for callback in callbacks:
            callback(live)
        last = settings.iterations if until is None else until
        order = batches(len(images.labels), settings.batch_size, settings.seed, start.iteration)
        while live.iteration < last:
            _step(live, images, next(order))
            for callback in callbacks:
                callback(live)
        return live.state()


def batches(images: int, size: int, seed: int, iteration: int) -> Iterator[torch.Tensor]:
    """Indices, int64 [size], of the images of step `iteration` and of every one after it.

    Each epoch has an order of its own, that follows from `seed` and its number. What is left of it when no whole batch
    is, is left out.
    """
    if size > images:
        raise UserError(f"batch_size: {size}; there are {images} images to train on, allowed is 1 to {images}")
    epoch, place = divmod(iteration, images // size)
    for number in count(epoch):
        order = torch.randperm(images, generator=generator(seed, "data order", str(number)))
        yield from order[: images // size * size].split(size)[place:]
        place = 0


def _step(live: LiveTraining, images: ImageSet, chosen: torch.Tensor) -> None:
    for group in live.optimizer.param_groups:
        group["lr"] = live.settings.rate(live.iteration)
    live.optimizer.zero_grad()
    functional.cross_entropy(live.model(images.images[chosen]), images.labels[chosen]).backward()
    live.mask_gradients()
    live.optimizer.step()
    live.iteration += 1
