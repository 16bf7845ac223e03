"""The training loop. It never grows: what is done beside training arrives as callbacks."""

from collections.abc import Callable, Iterator, Sequence
from itertools import count

import torch
from torch import nn

from ltpipe.runtime.errors import UserError
from ltpipe.training.computing import Computing
from ltpipe.training.examples import Examples
from ltpipe.training.live import Callback, LiveTraining
from ltpipe.training.randomness import generator
from ltpipe.training.settings import Settings
from ltpipe.training.state import TrainingState

Loss = Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]
"""Of a model, inputs and labels of a batch: the scalar to minimise."""

Trainer = Callable[[LiveTraining, Examples, Loss, int], None]
"""Trains `live.model` until so many iterations are done in all, or until it is `stopped`.

After each of its steps it calls `live.step(loss)`, which takes the step, or, where it took it itself,
`live.took_step()`.
"""


def take_steps(live: LiveTraining, examples: Examples, loss: Loss, until: int) -> None:
    """The trainer that is used where the user has none."""
    order = batches(len(examples), live.settings.batch_size, live.settings.seed, live.iteration)
    while live.iteration < until and not live.stopped:
        chosen = live.computing.part(next(order))
        live.begin()
        live.step(loss(live.model, examples.inputs[chosen], examples.labels[chosen]))


def train(
    model: nn.Module,
    examples: Examples,
    loss: Loss,
    settings: Settings,
    start: TrainingState,
    callbacks: Sequence[Callback] = (),
    until: int | None = None,
    computing: Computing = Computing(),  # noqa: B008
    trainer: Trainer = take_steps,
) -> TrainingState:
    """Train from `start` until so many iterations are done in all, with pruned weights at exactly 0 after every step.

    Torch's global generators are set in each step, and left as they were.

    Args:
        model: its weights and buffers are overwritten.
        examples: to train on.
        loss: to minimise.
        settings: of the training.
        start: where to begin; it is not changed.
        callbacks: in the order in which they are called.
        until: None is the end of the training.
        computing: how to compute.
        trainer: the loop.

    Raises:
        UserError: the trainer returned before all iterations were done.
    """
    with computing.alone():
        live = LiveTraining(model, settings, start, computing, callbacks)
        live.call()
        last = settings.iterations if until is None else until
        if live.iteration < last:
            trainer(live, examples.to(computing.placed_on), loss, last)
        if live.iteration != last and not live.stopped:
            raise UserError(f"trainer_fn: it ended after {live.iteration} iterations; expected {last}")
        return live.state()


def batches(examples: int, size: int, seed: int, iteration: int) -> Iterator[torch.Tensor]:
    """Indices, int64 [size], of the examples of step `iteration` and of every one after it.

    Each epoch has an order of its own, that follows from `seed` and its number. What is left of it when no whole batch
    is, is left out.
    """
    if size > examples:
        raise UserError(f"batch_size: {size}; there are {examples} examples to train on, allowed is 1 to {examples}")
    epoch, place = divmod(iteration, examples // size)
    for number in count(epoch):
        order = torch.randperm(examples, generator=generator(seed, "data order", str(number)))
        yield from order[: examples // size * size].split(size)[place:]
        place = 0
