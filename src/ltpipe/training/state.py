"""The state of a training, in memory and on disk: everything its next step depends on.

On disk it is one safetensors file with the tensors `weights/…`, `buffers/…`, `optimizer/<parameter>/<what>`, `mask/…`
and `best/…`. The iteration and the validation curve are JSON in its metadata.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import nn

from ltpipe.checkpoints.tensorfile import artefact
from ltpipe.checkpoints.tensorwriter import TensorData, write_tensors
from ltpipe.training.levels import Tensors, apply_mask

FORMAT = "2"
KIND = "training state"
_PARTS = ("weights", "buffers", "optimizer", "mask", "best")


@dataclass(frozen=True)
class Point:
    """Validation results after `iteration` iterations; loss in nats per label, accuracy a fraction."""

    iteration: int
    loss: float
    accuracy: float


@dataclass(frozen=True)
class TrainingState:
    """A training between two steps. It shares no tensor with the model being trained.

    Attributes:
        weights: all parameters, float32 on the CPU.
        buffers: running statistics of normalisations.
        optimizer: `<parameter>/<what>` to the tensors that the optimizer keeps for it; empty for a fresh optimizer.
        iteration: steps done. It is also the position in the learning-rate schedule and in the data, and seeds the
            noise inside the model in each step.
        mask: names of prunable tensors to bool tensors, True where a weight is kept; the other weights are 0. `{}` for
            a training that prunes nothing.
        validation: the curve so far, in order.
        best: weights and buffers at the curve's smallest loss.
    """

    weights: Tensors
    buffers: Tensors
    optimizer: Tensors
    iteration: int
    mask: Tensors = field(default_factory=dict)
    validation: tuple[Point, ...] = ()
    best: Tensors = field(default_factory=dict)


def start_of(model: nn.Module) -> TrainingState:
    """Return the state of a dense model before the first step, copied."""
    return TrainingState(copied(dict(model.named_parameters())), copied(dict(model.named_buffers())), {}, 0)


def rewind(point: TrainingState, mask: Tensors, trained: TrainingState | None = None) -> TrainingState:
    """Return the start of a level: mask ⊙ W_k, buffers of step k, fresh optimizer, schedule and data order at step k.

    Frankle et al. 2020 (1912.05671); with k = 0, Frankle & Carbin 2019. Shares nothing with `point`.

    Args:
        point: the state after k steps.
        mask: the level's mask.
        trained: if given, keep its weights and buffers and rewind only the rest: learning-rate rewinding (Renda et al.
            2020, 2003.02389).
    """
    values = trained or point
    weights, buffers = apply_mask(values.weights, mask), copied(values.buffers)
    return TrainingState(weights, buffers, {}, point.iteration, copied(mask))


def copied(tensors: Tensors) -> dict[str, torch.Tensor]:
    """Return copies of tensors on the CPU."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}


def on_host(tensors: Tensors) -> dict[str, torch.Tensor]:
    """Return tensors on the CPU, not copied if they are there."""
    return {name: tensor.detach().cpu() for name, tensor in tensors.items()}


def write_state(path: Path, state: TrainingState, training: str = "") -> None:
    """Write a state atomically. `training` identifies its training for `read_state`."""
    tensors = {f"{part}/{name}": tensor for part in _PARTS for name, tensor in getattr(state, part).items()}
    metadata = {
        "format": FORMAT,
        "kind": KIND,
        "iteration": str(state.iteration),
        "training": training,
        "validation": json.dumps([asdict(point) for point in state.validation]),
    }
    write_tensors(path, [TensorData.of(name, tensor.numpy()) for name, tensor in tensors.items()], metadata)


def read_state(path: Path, training: str | None = None) -> TrainingState | None:
    """Read a state that `write_state` wrote; return None if it belongs to a training other than `training`.

    Raises:
        UserError: there is no such file.
        DamagedFileError: the file is not a training state.
    """
    # A given training identifies the state more exactly than the configuration does.
    with artefact(path, KIND, FORMAT, however_made=training is not None) as file:
        if training not in (None, file.metadata["training"]):
            return None
        # Copy, since the file is mapped read-only and replaced while training continues.
        tensors = {name: torch.from_numpy(file.array(name).copy()) for name in file.specs}
        parts: Mapping[str, dict[str, torch.Tensor]] = {part: {} for part in _PARTS}
        for whole, tensor in tensors.items():
            part, _, name = whole.partition("/")
            parts[part][name] = tensor
        points = tuple(Point(**point) for point in json.loads(file.metadata["validation"]))
        if (iteration := int(file.metadata["iteration"])) < 0:
            raise ValueError(f"iteration {iteration}")
        return TrainingState(**parts, iteration=iteration, validation=points)
