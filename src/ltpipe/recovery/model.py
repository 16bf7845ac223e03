"""The model that a recovery trains: only what is trained is a parameter, everything else is frozen."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.contents import chunks_of
from ltpipe.checkpoints.header import TORCH_NAMES
from ltpipe.checkpoints.manifest import TensorEntry
from ltpipe.pruning.apply import as_torch, fetch_from
from ltpipe.pruning.masks import Mask, unpack
from ltpipe.pruning.solution import Solution
from ltpipe.recovery.masked import HeldWeight, add_change, changed_weight, hold
from ltpipe.recovery.settings import RecoverySettings
from ltpipe.runtime.errors import UserError
from ltpipe.streaming.skeleton import build_skeleton

_LINEAR = ("Linear", "Conv1D")
"""Classes of layers that multiply their inputs with a weight [rows, columns] and add a bias, and do nothing else."""


@dataclass(frozen=True)
class TrainedModel:
    """A model of which parts are trained.

    Attributes:
        model: the model, float32; its parameters are what is trained, and frozen tensors are plain attributes.
        mask: the ticket's mask.
        tensors: the tensors of the checkpoint.
        changed: layers with low-rank changes and their held weights, by the stored name of the weight.
    """

    model: Any
    mask: Mask
    tensors: Mapping[str, TensorEntry]
    changed: Mapping[str, tuple[nn.Module, HeldWeight]] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Stored names of the tensors that get new values."""
        return list(self.changed) or [name for name, _ in self.model.named_parameters()]

    @property
    def masks(self) -> dict[str, torch.Tensor]:
        """Masks of parameters, which the training loop holds: bool tensors, True where a weight is kept."""
        return {
            name: torch.from_numpy(unpack(self.mask.bits[name], tuple(parameter.shape)))
            for name, parameter in self.model.named_parameters()
            if name in self.mask.bits
        }

    def values(self, name: str) -> np.ndarray:
        """Return a tensor's new values as a solution has them: rounded to the stored dtype, without pruned weights.

        Raises:
            UserError: one is infinite or not a number.
        """
        value = changed_weight(*self.changed[name]) if name in self.changed else self.model.get_parameter(name)
        rounded = value.detach().to("cpu", getattr(torch, TORCH_NAMES[self.tensors[name].dtype]))
        if not torch.isfinite(rounded).all():
            raise UserError(f"training diverged: '{name}' is infinite or not a number; lower the learning rate")
        found = np.concatenate(list(chunks_of(rounded))).reshape(rounded.shape)
        return found[unpack(self.mask.bits[name], found.shape)] if name in self.mask.bits else found


def trained_model(
    checkpoint: Checkpoint, mask: Mask, solution: Solution | None, settings: RecoverySettings, device: torch.device
) -> TrainedModel:
    """Build a ticket's model on a device, ready to be trained.

    Args:
        checkpoint: the model's checkpoint.
        mask: the ticket's mask.
        solution: values of its weights, if a solver found them.
        settings: what is trained, and how.
        device: where the model is put.

    Raises:
        UserError: the model has nothing that the mode trains.
    """
    build = _Building(checkpoint, mask, solution, settings, device)
    found = TrainedModel(build.model(), mask, checkpoint.manifest.tensors, build.changed)
    if not list(found.model.parameters()):
        what = "vectors" if settings.mode == "norms-and-biases" else "masked linear layers"
        raise UserError(f"mode {settings.mode}: the model has no {what} to train; use mode full")
    if settings.gradient_checkpointing:
        if not found.model.supports_gradient_checkpointing:
            name = type(found.model).__name__
            raise UserError(f"gradient_checkpointing: transformers has none for {name}; set it to false")
        # Before transformers 5.23 it had another name.
        name = "activation_checkpointing_enable"
        enable = getattr(found.model, name, None) or found.model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    return found


def frozen_model(checkpoint: Checkpoint, mask: Mask, device: torch.device) -> Any:
    """Build the dense model on a device, in evaluation mode, to learn from; linear layers in `mask` stay as stored."""
    return _Building(checkpoint, mask, None, None, device).model().eval()


@dataclass
class _Building:
    """A model being built; see `trained_model`. Without settings it is the dense model, and nothing is trained."""

    checkpoint: Checkpoint
    mask: Mask
    solution: Solution | None
    settings: RecoverySettings | None
    device: torch.device
    changed: dict[str, tuple[nn.Module, HeldWeight]] = field(default_factory=dict)

    def model(self) -> Any:
        """Return the model with all its weights."""
        skeleton = build_skeleton(self.checkpoint, torch.float32)
        mask, solution = (self.mask, self.solution) if self.settings else (None, None)
        fetch = fetch_from(self.checkpoint.weights, mask, self.device, torch.float32, solution=solution)
        names = {id(parameter): name for name, parameter in skeleton.named_parameters()}
        made: dict[str, torch.Tensor] = {}  # tied parameters are one tensor
        for module in [*skeleton.modules()]:
            for leaf, parameter in [*module._parameters.items()]:
                if parameter is None:
                    continue
                name = names[id(parameter)]
                if self._is_held(module, leaf, name):
                    self._hold(module, name)
                    continue
                if name not in made:
                    value = fetch(name)
                    made[name] = nn.Parameter(_own(value)) if self._is_trained(name, value) else value
                if isinstance(made[name], nn.Parameter):
                    module._parameters[leaf] = made[name]
                else:
                    del module._parameters[leaf]
                    setattr(module, leaf, made[name])
        for name, buffer in skeleton.named_buffers():
            if name in self.checkpoint.manifest.tensors:
                buffer.copy_(fetch(name))
        return skeleton.to(self.device)

    def _is_trained(self, name: str, value: torch.Tensor) -> bool:
        if self.settings is None or not value.is_floating_point():
            return False
        vectors = self.settings.mode == "norms-and-biases" and value.dim() <= 1 and name not in self.mask.bits
        return self.settings.mode == "full" or vectors

    def _is_held(self, module: nn.Module, leaf: str, name: str) -> bool:
        if self.settings is not None and self.settings.mode == "full":
            return False
        return name in self.mask.bits and leaf == "weight" and type(module).__name__ in _LINEAR

    def _hold(self, module: nn.Module, name: str) -> None:
        entry = self.checkpoint.manifest.tensors[name]
        if self.solution is not None and name in self.solution.values:
            array = self.solution.flat(name, self.mask)
        else:
            array = self.checkpoint.weights.array(name)
        stored = as_torch(array, entry.dtype).reshape(entry.shape).to(self.device)
        prunes = self.settings is not None and self.mask.kept[name] < entry.size
        bits = as_torch(self.mask.bits[name], "U8").to(self.device) if prunes else None
        rank, alpha = (self.settings.rank, self.settings.alpha) if self.settings else (1, 1.0)
        held = HeldWeight(stored, bits, type(module).__name__ == "Conv1D", alpha / rank)
        hold(module, held)
        if self.settings is not None and self.settings.mode == "lora":
            add_change(module, held, rank, self.settings.seed, name)
            self.changed[name] = module, held


def _own(value: torch.Tensor) -> torch.Tensor:
    """Return values that may be written to: a tensor of the checkpoint may be the mapped file itself."""
    return value.clone()
