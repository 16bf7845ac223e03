"""The model that a recovery trains: only what is trained is a parameter, everything else is frozen."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping
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
from ltpipe.recovery.masked import CONV1D, HeldWeight, add_change, changed_weight, hold
from ltpipe.recovery.settings import RecoverySettings
from ltpipe.runtime.errors import UserError
from ltpipe.streaming.skeleton import build_skeleton


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
    def trained(self) -> int:
        """Number of parameters that training changes; those that the mask prunes stay 0."""
        return sum(
            self.mask.kept[name] if name in self.mask.kept else parameter.numel()
            for name, parameter in self.model.named_parameters()
        )

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
            raise UserError(f"training diverged: '{name}' is not finite; lower the learning rate or the weight decay")
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
    source = _source(checkpoint, mask, solution, device)
    model, changed = build(build_skeleton(checkpoint, torch.float32), source, set(mask.bits), settings)
    return TrainedModel(model, mask, checkpoint.manifest.tensors, changed)


def frozen_model(checkpoint: Checkpoint, mask: Mask, device: torch.device) -> Any:
    """Build the dense model on a device, in evaluation mode, to learn from; linear layers in `mask` stay as stored."""
    source = _source(checkpoint, None, None, device)
    model, _ = build(build_skeleton(checkpoint, torch.float32), source, set(mask.bits), None)
    return model.eval()


@dataclass(frozen=True)
class TensorSource:
    """Where the tensors of a model come from, by stored name.

    Attributes:
        device: device that they are on.
        names: the tensors that there are.
        computed: returns a tensor in float32, masked; it may be the mapped file itself.
        stored: returns a tensor as it is stored, not masked.
        bits: returns the packed bits of a tensor's mask; None if nothing in it is pruned.
    """

    device: torch.device
    names: Collection[str]
    computed: Callable[[str], torch.Tensor]
    stored: Callable[[str], torch.Tensor]
    bits: Callable[[str], torch.Tensor | None]


def build(
    skeleton: Any, source: TensorSource, covered: Collection[str], settings: RecoverySettings | None
) -> tuple[Any, dict[str, tuple[nn.Module, HeldWeight]]]:
    """Give a skeleton its tensors: what is trained as parameters, all others as plain attributes.

    Args:
        skeleton: a model whose parameters have no storage.
        source: where its tensors come from.
        covered: names of the tensors that the mask covers.
        settings: what is trained; None for a model that is not trained.

    Returns:
        The model, and its layers with low-rank changes, each with its held weight, by the name of the weight.

    Raises:
        UserError: the model has nothing that the mode trains.
    """
    mode = settings.mode if settings else None
    names = {id(parameter): name for name, parameter in skeleton.named_parameters()}
    uses = Counter(id(parameter) for _, parameter in skeleton.named_parameters(remove_duplicate=False))
    made: dict[str, torch.Tensor] = {}  # tied parameters are one tensor
    changed = {}
    for module in [*skeleton.modules()]:
        for leaf, parameter in [*module._parameters.items()]:
            if parameter is None:
                continue
            name, kind = names[id(parameter)], type(module).__name__
            # A head that is tied to the embeddings is frozen as they are: both have one value in the ticket.
            linear = (isinstance(module, nn.Linear) or kind == CONV1D) and leaf == "weight" and uses[id(parameter)] == 1
            if mode != "full" and name in covered and linear:
                scale = settings.alpha / settings.rank if settings else 1.0
                held = HeldWeight(source.stored(name), source.bits(name), kind == CONV1D, scale)
                hold(module, held)
                if settings and mode == "lora":
                    add_change(module, held, settings.rank, settings.seed, name)
                    changed[name] = module, held
                continue
            if name not in made:
                value = source.computed(name)
                vector = mode == "norms-and-biases" and value.dim() <= 1 and name not in covered
                trained = value.is_floating_point() and (mode == "full" or vector)
                # Of a checkpoint the value may be the mapped file, which must not be written to.
                made[name] = nn.Parameter(value.clone()) if trained else value
            if isinstance(made[name], nn.Parameter):
                module._parameters[leaf] = made[name]
            else:
                del module._parameters[leaf]
                setattr(module, leaf, made[name])
    for place, module in skeleton.named_modules():
        for leaf, buffer in module._buffers.items():
            name = f"{place}.{leaf}" if place else leaf
            if buffer is not None:
                stored = name in source.names
                module._buffers[leaf] = source.computed(name).clone() if stored else buffer.to(source.device)
    if settings and not list(skeleton.parameters()):
        what = "vectors" if mode == "norms-and-biases" else "linear layers under the mask"
        raise UserError(f"mode {mode}: the model has no {what} to train; use mode full")
    if settings and settings.gradient_checkpointing:
        _checkpoint_gradients(skeleton)
    return skeleton, changed


def _source(checkpoint: Checkpoint, mask: Mask | None, solution: Solution | None, device: torch.device) -> TensorSource:
    tensors = checkpoint.manifest.tensors

    def stored(name: str) -> torch.Tensor:
        solved = mask is not None and solution is not None and name in solution.values
        array = solution.flat(name, mask) if solved else checkpoint.weights.array(name)  # type: ignore[union-attr, arg-type]
        return as_torch(array, tensors[name].dtype).reshape(tensors[name].shape).to(device)

    def bits(name: str) -> torch.Tensor | None:
        prunes = mask is not None and mask.kept[name] < tensors[name].size
        return as_torch(mask.bits[name], "U8").to(device) if mask is not None and prunes else None

    computed = fetch_from(checkpoint.weights, mask, device, torch.float32, solution=solution)
    return TensorSource(device, tensors, computed, stored, bits)


def _checkpoint_gradients(model: Any) -> None:
    if not model.supports_gradient_checkpointing:
        raise UserError(f"gradient_checkpointing: transformers has none for {type(model).__name__}; set it to false")
    # Before transformers 5.23 it had another name.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
