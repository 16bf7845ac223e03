"""What a live model holds, as a canonical checkpoint names it; its weights need no contents for that."""

from collections.abc import Mapping

import torch
from torch import nn

from ltpipe.checkpoints.header import TORCH_NAMES
from ltpipe.checkpoints.manifest import Manifest, TensorEntry
from ltpipe.runtime.errors import UserError

STORED_NAMES = {getattr(torch, name): stored for stored, name in TORCH_NAMES.items()}
"""What the dtypes that a checkpoint may hold are called in it."""


def manifest_of(model: nn.Module, source: str, digests: Mapping[str, str] | None = None) -> Manifest:
    """The manifest of a model's canonical checkpoint; without `digests` (SHA-256 by name), of a foreseen one.

    Raises:
        UserError: the model has no list of blocks, or a tensor of a dtype that is not stored.
    """
    owners = dict(model.named_modules())
    parameters = dict(model.named_parameters())
    entries = {
        name: TensorEntry(
            dtype=_dtype_name(tensor),
            shape=tuple(tensor.shape),
            sha256="" if digests is None else digests[name],
            module=type(owners[name.rpartition(".")[0]]).__name__,
            buffer=name not in parameters,
        )
        for name, tensor in stored_tensors(model).items()
    }
    return Manifest(type(model).__name__, source, blocks_name(model), entries, _tied(model))


def stored_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Every parameter once and every persistent buffer, by name."""
    tied = _tied(model)
    return {name: tensor.detach() for name, tensor in model.state_dict().items() if name not in tied}


def blocks_name(model: nn.Module) -> str:
    """Name of the module list with the most parameters: the model's blocks.

    Raises:
        UserError: there is no module list.
    """
    sizes = {
        name: sum(parameter.numel() for parameter in module.parameters())
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
    }
    if not sizes:
        raise UserError(f"{type(model).__name__} has no module list of blocks; this architecture is not supported")
    return max(sizes, key=lambda name: sizes[name])


def _tied(model: nn.Module) -> dict[str, str]:
    """Further names of tied parameters, alias to the first name."""
    first: dict[int, str] = {}
    tied: dict[str, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if first.setdefault(id(parameter), name) != name:
            tied[name] = first[id(parameter)]
    return tied


def _dtype_name(tensor: torch.Tensor) -> str:
    if tensor.dtype not in STORED_NAMES:
        raise UserError(f"the checkpoint holds {tensor.dtype} tensors; set the model's dtype to float32 or bfloat16")
    return STORED_NAMES[tensor.dtype]
