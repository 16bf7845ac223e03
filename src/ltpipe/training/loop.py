"""The training loop. Anything beyond training itself is a callback."""

from collections.abc import Callable, Iterator, Sequence
from itertools import count

import torch
from torch import nn

from ltpipe.runtime.errors import UserError
from ltpipe.training.computing import TrainingCompute
from ltpipe.training.examples import Examples
from ltpipe.training.live import Callback, LiveTraining
from ltpipe.training.randomness import generator
from ltpipe.training.settings import TrainingSettings
from ltpipe.training.state import TrainingState

Loss = Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]
"""Returns the scalar to minimise, given a model and a batch's inputs and labels."""

Trainer = Callable[[LiveTraining, Examples, Loss, int], None]
"""Trains `live.model` until the given number of iterations is done in total, or until it is `stopped`.

For each step it calls `live.step(loss)`, which takes the step, or `live.took_step()` after taking the step itself.
"""


def take_steps(live: LiveTraining, examples: Examples, loss: Loss, until: int) -> None:
    """The default trainer."""
    order = batches(len(examples), live.settings.batch_size, live.settings.seed, live.iteration)
    while live.iteration < until and not live.stopped:
        chosen = live.computing.part(next(order))
        live.begin()
        live.step(loss(live.model, examples.inputs[chosen], examples.labels[chosen]))


def train(
    model: nn.Module,
    examples: Examples,
    loss: Loss,
    settings: TrainingSettings,
    start: TrainingState,
    callbacks: Sequence[Callback] = (),
    until: int | None = None,
    computing: TrainingCompute = TrainingCompute(),  # noqa: B008
    trainer: Trainer = take_steps,
) -> TrainingState:
    """Train from `start` until `until` iterations are done in total; pruned weights are exactly 0 after every step.

    Torch's global generators are seeded in each step and restored afterwards.

    Args:
        model: its weights and buffers are overwritten.
        examples: the examples to train on.
        loss: the loss to minimise.
        settings: the training's settings.
        start: the state to start from; it is not changed.
        callbacks: called in this order.
        until: the last iteration; None for the end of training.
        computing: how to compute.
        trainer: the loop.

    Raises:
        UserError: the trainer returned before all iterations were done.
    """
    with computing.alone():
        live = LiveTraining(model, settings, start, computing, callbacks)
        run(live, examples, loss, settings.iterations if until is None else until, trainer)
        return live.state()


def run(live: LiveTraining, examples: Examples, loss: Loss, until: int, trainer: Trainer = take_steps) -> None:
    """Run a training until `until` iterations are done in total; see `train`."""
    live.call()
    if live.iteration < until:
        trainer(live, examples.to(live.computing.placed_on), loss, until)
    if live.iteration != until and not live.stopped:
        raise UserError(f"trainer_fn: it ended after {live.iteration} iterations; expected {until}")


def batches(examples: int, size: int, seed: int, iteration: int) -> Iterator[torch.Tensor]:
    """Yield the indices, int64 [size], of the examples of step `iteration` and each later step.

    Each epoch has its own order, which depends on `seed` and the epoch's number. A last incomplete batch is dropped.
    """
    if size > examples:
        raise UserError(f"batch_size: {size} exceeds the {examples} training examples; use 1 to {examples}")
    epoch, place = divmod(iteration, examples // size)
    for number in count(epoch):
        order = torch.randperm(examples, generator=generator(seed, "data order", str(number)))
        yield from order[: examples // size * size].split(size)[place:]
        place = 0
