"""Benchmarks of training: the loop against a bare torch loop on the same model, and masked against dense steps."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional

from benchmarks.report import Bar, Section, Table, in_turn
from ltpipe.data.images import DIGITS
from ltpipe.training.computing import TrainingCompute
from ltpipe.training.levels import dense_mask, magnitudes, prune_layers
from ltpipe.training.loop import train
from ltpipe.training.settings import BETAS, TrainingSettings
from ltpipe.training.state import rewind, start_of
from ltpipe.training.tasks.images import ImageTask

_BARE = 0.9
_MASKED = 1.05
_BATCH = 60
_RATE = 1.2e-3


@dataclass(frozen=True)
class Amount:
    """Steps per reading, and rounds in which every contestant runs once."""

    steps: int
    rounds: int


FULL = Amount(steps=400, rounds=12)
SMOKE = Amount(steps=20, rounds=2)


def run(amount: Amount, say: Callable[[str], None]) -> Section:
    """Time LeNet-300-100 on 3,500 digits, batches of 60, Adam, one thread."""
    say("training: LeNet-300-100 against a bare loop, dense and masked")
    task = ImageTask.prepare("lenet-300-100", DIGITS, 500, 1000, 0, "digits")
    settings = TrainingSettings("adam", _RATE, amount.steps, _BATCH, amount.steps, 0)
    computing = TrainingCompute("cpu", threads=1)
    dense = start_of(task.build(0))
    kinds = task.kinds(task.build(0))
    mask = prune_layers(magnitudes(dense.weights), dense_mask(dense.weights, kinds), dict.fromkeys(kinds, "0.8"))
    ticket = rewind(dense, mask)

    def ours(start: object) -> Callable[[], object]:
        return lambda: train(task.build(0), task.train, task.loss, settings, start, computing=computing)

    contestants = {
        "bare torch loop": lambda: _bare(task, amount.steps, fused=False),
        "bare torch loop, fused Adam": lambda: _bare(task, amount.steps, fused=True),
        "ltpipe, dense": ours(dense),
        "ltpipe, 20 % of the weights": ours(ticket),
    }
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        in_turn(contestants, 1)  # warms up
        seconds = in_turn(contestants, amount.rounds)
    finally:
        torch.set_num_threads(threads)
    _, fused, loop, masked = seconds.values()
    rows = [(name, each.text(), f"{amount.steps / each.median:,.0f}") for name, each in seconds.items()]
    return Section(
        "Training",
        f"LeNet-300-100 on MNIST digits, {amount.steps} steps of {_BATCH} images per reading, Adam, one thread. The "
        "bare loops also cut random permutations into batches, and do nothing else.",
        [Table("Steps", ("Contestant", "Seconds: median (min–max)", "Steps a second"), rows)],
        [
            Bar("training steps a second ÷ bare torch loop, fused Adam both", fused.over(loop), _BARE, at_most=False),
            Bar("masked ÷ dense training step", masked.over(loop), _MASKED, at_most=True),
        ],
    )


def _bare(task: ImageTask, steps: int, fused: bool) -> None:
    """Train with the simplest possible loop."""
    model, images, labels = task.build(0), task.train.inputs, task.train.labels
    optimizer = torch.optim.Adam(model.parameters(), _RATE, BETAS, fused=fused)
    done = 0
    while done < steps:
        for chosen in torch.randperm(len(labels)).split(_BATCH)[: min(len(labels) // _BATCH, steps - done)]:
            optimizer.zero_grad()
            functional.cross_entropy(model(images[chosen]), labels[chosen]).backward()
            optimizer.step()
            done += 1
