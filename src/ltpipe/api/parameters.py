"""A live model's parameters, read as the pruning stages read a checkpoint: one at a time, on the host."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
from torch import nn

from ltpipe.checkpoints.contents import STORED_NAMES, manifest_of
from ltpipe.checkpoints.header import TensorSpec
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.checkpoints.prunable import Preset, Selection
from ltpipe.runtime.errors import UserError

_CHUNK = 1 << 22


def prunable_parameters(model: nn.Module, only_weights: bool = True) -> dict[str, nn.Parameter]:
    """Return the parameters that compete, in canonical (byte) order of their names; tied ones once.

    Args:
        model: any module. A tied parameter goes by the first of its names.
        only_weights: take parameters with two or more dimensions and `weight` in their name; if False, take every
            parameter with two or more dimensions, whatever its name (fused experts, for example). Biases and other
            one-dimensional parameters are never prunable.

    Raises:
        UserError: there is no such parameter.
    """
    chosen = {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.dim() >= 2 and ("weight" in name or not only_weights)
    }
    if not chosen:
        raise UserError(
            f"{type(model).__name__} has no parameter of two or more dimensions"
            + (" with 'weight' in its name; use only_weights=False for any name" if only_weights else "")
        )
    return {name: chosen[name] for name in sorted(chosen, key=str.encode)}


def selected(model: nn.Module, preset: Preset) -> dict[str, nn.Parameter]:
    """Return the parameters that a preset of the pipeline selects, in canonical order.

    Raises:
        UserError: there is no such preset, or nothing is left.
    """
    check_preset(preset)
    return {name: model.get_parameter(name) for name in Selection(preset).names(live_manifest(model))}


def check_preset(preset: str) -> None:
    """Raise UserError unless there is a preset of that name."""
    if preset not in get_args(Preset):
        raise UserError(f"preset: '{preset}' is not allowed; use {' or '.join(get_args(Preset))}")


def live_manifest(model: nn.Module, digests: Mapping[str, str] | None = None) -> Manifest:
    """Return the manifest of a model's canonical checkpoint; models without a `config` have no blocks.

    Without `digests` (SHA-256 by name) its fingerprint differs from the checkpoint's.

    Raises:
        UserError: a tensor has a dtype that no checkpoint can hold, or a transformers model has no blocks.
    """
    return manifest_of(model, "a live model", digests, None if hasattr(model, "config") else "")


def config_of(model: nn.Module) -> dict[str, Any]:
    """Return a model's configuration as in its checkpoint; empty for a model without one."""
    config = getattr(model, "config", None)
    return {} if config is None else config.to_dict()


@dataclass(frozen=True)
class HostWeights:
    """Tensors in memory behind the interface of a `TensorFile`. Caches nothing, on the host or on the device.

    Attributes:
        parameters: parameters or their scores by name, on any device.
        path: their name in error messages.
    """

    parameters: Mapping[str, torch.Tensor]
    path: str = "model"

    def spec(self, name: str) -> TensorSpec:
        """Return the dtype and shape of a parameter.

        Raises:
            UserError: ltpipe does not support its dtype.
        """
        parameter = self.parameters[name]
        if parameter.dtype not in STORED_NAMES:
            raise UserError(f"model: '{name}' has dtype {parameter.dtype}; use bfloat16, float16 or float32")
        return TensorSpec(STORED_NAMES[parameter.dtype], tuple(parameter.shape), 0, parameter.nbytes)

    def tensor(self, name: str) -> torch.Tensor:
        """Return a parameter, contiguous on the CPU; shares the parameter's memory if it already is.

        Raises:
            UserError: the parameter has no values.
        """
        parameter = self.parameters[name]
        if parameter.is_meta:
            raise UserError(f"model: '{name}' is on the meta device and has no values; load the weights first")
        return parameter.detach().to("cpu").contiguous()

    def array(self, name: str) -> np.ndarray:
        """Return a parameter as a read-only array, bfloat16 as bit patterns (uint16)."""
        values = self.tensor(name)
        bits = values.view(torch.int16).numpy().view(np.uint16) if values.dtype == torch.bfloat16 else values.numpy()
        bits.flags.writeable = False  # like mapped files, so that the kernels compile only once
        return bits

    def magnitudes(self, name: str) -> Iterator[np.ndarray]:
        """Yield |w| of a parameter, flat, float64, in chunks."""
        for chunk in self.tensor(name).view(-1).split(_CHUNK):
            yield chunk.double().abs().numpy()
