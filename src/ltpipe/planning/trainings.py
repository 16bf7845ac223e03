"""The plan of trainings: runs two steps on tensors without contents and counts their operations."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ltpipe.planning.architecture import architecture
from ltpipe.planning.stages import StagePlan
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.fake_device import CONTENTS, ByteCounter, Peak, fake
from ltpipe.runtime.memory import private_host_bytes
from ltpipe.runtime.sources import Source
from ltpipe.training.settings import TrainingSettings
from ltpipe.training.task import Task, foreseen_task
from ltpipe.workflow import trainings
from ltpipe.workflow.config import Config

WEIGHTS, GRADIENTS, OPTIMIZER, MASK = "weights", "gradients", "optimizer", "mask"
ACTIVATIONS, EXAMPLES = "activations", "examples"

_FLOAT = 4
_POINT_BYTES = 70
"""Bytes of a record per point of the validation curve: an iteration and two numbers at full precision."""

_LINE_POINTS = 30


@dataclass(frozen=True)
class Step:
    """What one step of a training takes.

    Attributes:
        peak: peak of tensors, bytes by kind.
        weights, optimizer, prunable: number of elements in parameters and buffers, in the optimizer's state, and in the
            tensors that a mask covers.
        operations: floating-point operations of the step.
        looking: floating-point operations to evaluate one example.
    """

    peak: Peak
    weights: int
    optimizer: int
    prunable: int
    operations: int
    looking: int


def plan_trainings(config: Config) -> Iterator[StagePlan]:
    """Plan every stage of every training.

    Raises:
        UserError: there are no examples, the model does not fit them, or its shapes are unknown.
    """
    for name, training in sorted(config["imp"].items()):
        yield from _plan_training(config, name, training)


def step_of(task: Task, settings: TrainingSettings, mixed_precision: str, processes: int) -> Step:
    """Run two steps on tensors without contents; the first creates the optimizer's state.

    Args:
        task: the task; only shapes matter.
        settings: settings of the training.
        mixed_precision: `no` or `bf16`.
        processes: number of processes that share a batch.
    """
    counter = ByteCounter(torch.device("cpu"))
    with fake(), counter:
        batch = -(-settings.batch_size // processes)
        with counter.labelled(WEIGHTS):
            model = task.build(0)
        kinds = task.kinds(model)
        with counter.labelled(EXAMPLES):
            inputs, labels = (
                torch.zeros((batch, *part.shape[1:]), dtype=part.dtype)
                for part in (task.train.inputs, task.train.labels)
            )
        with counter.labelled(MASK):
            factors = [torch.ones_like(model.get_parameter(name)) for name in kinds]
        optimizer = settings.new_optimizer(model.parameters())
        autocast = torch.autocast("cpu", torch.bfloat16, enabled=mixed_precision == "bf16")
        for _ in range(2):
            with FlopCounterMode(display=False) as counted:
                with counter.labelled(ACTIVATIONS), autocast:
                    loss = task.loss(model, inputs, labels)
                with counter.labelled(GRADIENTS):
                    loss.backward()
            with counter.labelled(OPTIMIZER):
                optimizer.step()
            optimizer.zero_grad()
            del loss
        with FlopCounterMode(display=False) as looked, torch.no_grad():
            task.logits(model, inputs[:1])
        kept = [each for state in optimizer.state.values() for each in state.values() if isinstance(each, torch.Tensor)]
        values = [*model.parameters(), *model.buffers()]
        return Step(
            counter.peak,
            sum(tensor.numel() for tensor in values),
            sum(tensor.numel() for tensor in kept),
            sum(factor.numel() for factor in factors),
            counted.get_total_flops(),
            looked.get_total_flops(),
        )


def _plan_training(config: Config, name: str, training: dict[str, Any]) -> Iterator[StagePlan]:
    train, compute, step_k = training["train"], training["compute"], training["rewind"]["step"]
    task = foreseen_task(training["task"], f"imp.{name}.task", _pretrained(config, training))
    chosen = {key: value for key, value in train.items() if key != "trainer_fn"}
    settings = TrainingSettings(**chosen | {"milestones": tuple(train["milestones"])}, seed=0)
    try:
        step = step_of(task, settings, compute["mixed_precision"], compute["processes"])
    except CONTENTS as error:
        raise UserError(
            f"imp.{name}: cannot be planned: its model's computation depends on the contents of tensors "
            f"({type(error).__name__})"
        ) from None
    base, replicates = private_host_bytes(), len(training["replicates"])
    examples = sum(_bytes(part.inputs) + _bytes(part.labels) for part in (task.train, task.validation, task.test))
    device = Peak(
        step.peak.total + examples, {**step.peak.parts, EXAMPLES: step.peak.parts.get(EXAMPLES, 0) + examples}
    )
    weights, mask = _FLOAT * step.weights, step.prunable
    state = 2 * weights + mask  # weights at the end, and at the smallest validation loss
    saved = state + _FLOAT * step.optimizer
    # Main memory holds the initial weights, the best weights and a copy of everything to write. On the CPU it holds the
    # live tensors too, but activations and gradients are freed before the copy is made.
    passing = sum(step.peak.parts.get(kind, 0) for kind in (ACTIVATIONS, GRADIENTS)) * (compute["device"] == "cpu")
    live = device.total if compute["device"] == "cpu" else examples
    host = base + 2 * weights + live + max(0, saved - passing)

    def stage(kind: str, jobs: int, disk: int, iterations: int = 0, looks: int = 0, seen: int = 0) -> StagePlan:
        """Return a plan with `looks` evaluations of `seen` examples each; both counts are sums over all jobs."""
        work = iterations * step.operations * compute["processes"] + looks * seen * step.looking
        filled, taken = (device, host) if iterations else (Peak(), base + 5 * weights + examples)
        return StagePlan(
            kind, name, None, jobs, filled, taken, disk,
            operations=work, iterations=iterations, examples=iterations * settings.batch_size,
        )  # fmt: skip

    levels, looks_a_step = training["levels"], 1 / settings.evaluate_every
    cells = [cell for cell in trainings.every_training(config) if cell.training == name]
    steps = [settings.iterations - (0 if cell.branch.startswith("reinitialised") else step_k) for cell in cells]
    looks = sum(int(count * looks_a_step) + 1 for count in steps)
    record = _POINT_BYTES * (int(settings.iterations * looks_a_step) + 1)
    disk = _stored(task) + (weights if training["task"].get("pretrained") else 0)
    yield StagePlan("task", name, None, 1, Peak(), base + 2 * examples, disk)
    point = 2 * weights + _FLOAT * step.optimizer * (step_k > 0)
    yield stage("rewind point", replicates, replicates * point, replicates * step_k)
    yield StagePlan(
        "level mask", name, None, replicates * levels, Peak(), base + 3 * weights, replicates * levels * mask // 8
    )
    yield stage("training", len(cells), len(cells) * (state + record), sum(steps), looks, len(task.validation))
    lines = sum(cell.branch.startswith("order-") for cell in cells)
    if lines:
        yield stage("connectivity", lines, 0, looks=lines * _LINE_POINTS, seen=len(task.test))
    if training["early_bird"]:
        birds = replicates * len(training["early_bird"]["sparsities"])
        yield stage("early bird, at most", birds, birds * mask // 8, birds * settings.iterations)


def _pretrained(config: Config, training: dict[str, Any]) -> Any:
    """Return the configuration of the model that training starts from; None if it starts from random weights."""
    name = training["task"].get("pretrained")
    return None if name is None else architecture(Source(config["models"][name]["source"], f"models.{name}.source"))


def _bytes(tensor: torch.Tensor) -> int:
    return prod(tensor.shape) * tensor.element_size()


def _stored(task: Task) -> int:
    """Return the bytes of a task's examples on disk: one per pixel, four per token."""
    parts = (task.train, task.validation, task.test)
    return sum(_bytes(part.inputs) // (4 if part.inputs.is_floating_point() else 2) for part in parts)
