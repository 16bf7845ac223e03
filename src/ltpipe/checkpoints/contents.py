"""The contents of a live model under the names of its canonical checkpoint; the weights may be without contents."""

import hashlib
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import nn

from ltpipe.checkpoints.header import TORCH_NAMES
from ltpipe.checkpoints.manifest import Manifest, TensorEntry
from ltpipe.checkpoints.uses import UNUSED, Use, parameter_uses, uses_by_class
from ltpipe.runtime.errors import UserError

_CHUNK = 1 << 24

STORED_NAMES = {getattr(torch, name): stored for stored, name in TORCH_NAMES.items()}
"""Stored names of the dtypes allowed in a checkpoint."""


def manifest_of(
    model: nn.Module, source: str, digests: Mapping[str, str] | None = None, blocks: str | None = None
) -> Manifest:
    """Return the manifest of a model's canonical checkpoint; without `digests` (SHA-256 by name), of a planned one.

    `blocks` is the name of the model's list of blocks, '' for a model without one; None searches for it.

    Raises:
        UserError: the model has no list of blocks, or a tensor has a dtype that cannot be stored.
    """
    owners = dict(model.named_modules())
    uses = parameter_uses(model) if blocks is None else uses_by_class(model)
    blocks, *further = _stacks(model, uses) if blocks is None else (blocks,)

    def entry(name: str, tensor: torch.Tensor) -> TensorEntry:
        use = uses.get(name, Use())
        inside = any(stack and name.startswith(f"{stack}.") for stack in (blocks, *further))
        return TensorEntry(
            dtype=_dtype_name(tensor),
            shape=tuple(tensor.shape),
            sha256="" if digests is None else digests[name],
            module=type(owners[name.rpartition(".")[0]]).__name__,
            buffer=name not in uses,
            matrices=use.matrices,
            inputs_first=use.inputs_first,
            left_out=use.otherwise if inside and tensor.dim() > 1 else "",
        )

    entries = {name: entry(name, tensor) for name, tensor in stored_tensors(model).items()}
    return Manifest(type(model).__name__, source, blocks, entries, _tied(model), further=tuple(further))


def stored_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return every parameter once and every persistent buffer, by name."""
    tied = _tied(model)
    return {name: tensor.detach() for name, tensor in model.state_dict().items() if name not in tied}


def chunks_of(tensor: torch.Tensor) -> Iterator[np.ndarray]:
    """Yield a tensor's values in row-major order as NumPy arrays; bfloat16 as bit patterns."""
    flat = tensor.contiguous().reshape(-1)
    bits = flat.view(torch.uint16) if flat.dtype == torch.bfloat16 else flat
    for start in range(0, bits.numel(), _CHUNK):
        yield bits[start : start + _CHUNK].cpu().numpy()


def digest_of(tensor: torch.Tensor) -> str:
    """Return the SHA-256 of a tensor's bytes, as in manifests."""
    digest = hashlib.sha256()
    for chunk in chunks_of(tensor):
        digest.update(chunk.data.cast("B"))
    return digest.hexdigest()


def blocks_name(model: nn.Module) -> str:
    """Return the name of the model's list of blocks: the module list run by its forward with the most parameters.

    Raises:
        UserError: there is no module list.
    """
    outermost = _outermost_lists(model)
    if len(outermost) == 1:  # nothing to choose from, so nothing to trace
        return next(iter(outermost))
    return _stacks(model, parameter_uses(model))[0]


def _outermost_lists(model: nn.Module) -> dict[str, nn.ModuleList]:
    """Return the module lists that are not inside another one, by name.

    Raises:
        UserError: there is none.
    """
    lists = {name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    outermost = {
        name: module for name, module in lists.items() if not any(name.startswith(f"{other}.") for other in lists)
    }
    if not outermost:
        raise UserError(f"{type(model).__name__} has no module list of blocks; this architecture is not supported")
    return outermost


def _stacks(model: nn.Module, uses: Mapping[str, Use]) -> list[str]:
    """Return the names of the lists of blocks that the forward runs, the one with the most parameters first.

    Lists inside blocks belong to the blocks. Lists of layers without submodules, for example one per output, are not
    blocks unless there is nothing else.
    """
    outermost = _outermost_lists(model)

    def used(name: str) -> int:
        sizes = ((each, parameter.numel()) for each, parameter in model.named_parameters())
        return sum(size for each, size in sizes if each.startswith(f"{name}.") and uses[each] is not UNUSED)

    sizes = {name: used(name) for name in outermost}
    largest = max(sizes, key=lambda name: sizes[name])
    further = [
        name
        for name, module in outermost.items()
        if name != largest and sizes[name] and all(any(True for _ in block.children()) for block in module)
    ]
    return [largest, *further]


def _tied(model: nn.Module) -> dict[str, str]:
    """Return further names of tied parameters, alias to first name."""
    first: dict[int, str] = {}
    tied: dict[str, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if first.setdefault(id(parameter), name) != name:
            tied[name] = first[id(parameter)]
    return tied


def _dtype_name(tensor: torch.Tensor) -> str:
    if tensor.dtype not in STORED_NAMES:
        raise UserError(f"the checkpoint contains {tensor.dtype} tensors; set the model's dtype to float32 or bfloat16")
    return STORED_NAMES[tensor.dtype]
