"""A model whose pruned weights are zero for a while."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ltpipe.api import masking_kernels
from ltpipe.pruning.masks import unpack
from ltpipe.runtime.errors import UserError

_CHUNK = 1 << 20  # weights that have temporaries on the device: two bytes each, and an index inside torch
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@contextmanager
def masked(model: nn.Module, mask: Mapping[str, torch.Tensor]) -> Iterator[nn.Module]:
    """Let `model` be the ticket m ⊙ θ: pruned weights are zero inside the context, and themselves again after it.

    Weights come back bit for bit (also -0.0 and the payloads of NaNs), whatever is raised meanwhile, even while the
    mask is applied. They are handled as integers, never multiplied. What the body writes to weights that are kept
    stays; what it writes to pruned weights does not.

    Only the pruned values are saved, on the host, with one bit a weight that says where they belong: the mask is the
    caller's, may be changed meanwhile, and is never widened. The device holds the temporaries of a million weights
    (about 12 MiB), during entry and exit only. Tied parameters are masked once and stay tied.

    Args:
        model: on any device, or several; not to be copied or cast inside the context, but it may be moved.
        mask: parameter names to bool tensors, True where a weight is kept; `{}` is the dense model.

    Yields:
        The model.

    Raises:
        UserError: the mask does not fit the model, or the dtype of a parameter was changed inside the context.
    """
    targets = _targets(model, mask)
    with ExitStack() as stack:
        for name, parameter, kept in targets:
            _prune(name, parameter, kept, stack)
        yield model


@torch.no_grad()
def zero_pruned(model: nn.Module, mask: Mapping[str, torch.Tensor]) -> None:
    """Set pruned weights to zero for good.

    Raises:
        UserError: the mask does not fit the model.
    """
    for name, parameter, kept in _targets(model, mask):
        flat, flat_kept = _flat(name, parameter), _like(parameter, kept)
        for values, chunk in zip(flat.split(_CHUNK), flat_kept.split(_CHUNK), strict=True):
            _zero(values, ~chunk.to(values.device))
        _count_as_written(parameter)


@dataclass(frozen=True)
class _Saved:
    """Pruned values of a part of a parameter, as integers on the host. `bits` says which they are, 1 is pruned."""

    name: str
    parameter: nn.Parameter
    dtype: torch.dtype
    start: int
    size: int
    bits: np.ndarray
    values: torch.Tensor

    def restore(self) -> None:
        if self.parameter.dtype != self.dtype:
            raise UserError(
                f"'{self.name}' was cast from {self.dtype} to {self.parameter.dtype} inside masked(); its pruned "
                "values cannot be restored"
            )
        with torch.inference_mode(self.parameter.is_inference()):
            part = _flat(self.name, self.parameter).narrow(0, self.start, self.size)
            if part.device.type == "cpu":
                masking_kernels.scatter(part.numpy(), self.bits, self.values.numpy())
                _count_as_written(self.parameter)
            else:
                part.masked_scatter_(_unpacked(self.bits, self.size).to(part.device), self.values.to(part.device))


def _prune(name: str, parameter: nn.Parameter, kept: torch.Tensor, stack: ExitStack) -> None:
    """Zero the pruned weights of one parameter chunk by chunk; `stack` restores each chunk."""
    flat_kept = _like(parameter, kept)
    with torch.inference_mode(parameter.is_inference()):
        flat = _flat(name, parameter)
        for start in range(0, flat.numel(), _CHUNK):
            part = flat[start : start + _CHUNK]
            pruned = ~flat_kept[start : start + _CHUNK]
            bits = _packed(pruned)
            pruned = pruned.to(part.device)
            saved = _Saved(name, parameter, parameter.dtype, start, len(part), bits, _selected(part, pruned))
            stack.callback(saved.restore)  # before the first value is overwritten
            _zero(part, pruned)
        _count_as_written(parameter)


def _selected(part: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """The chosen values, compact, on the host."""
    if part.device.type == "cpu":
        return torch.from_numpy(masking_kernels.select(part.numpy(), chosen.numpy()))
    return part.masked_select(chosen).cpu()


def _zero(part: torch.Tensor, chosen: torch.Tensor) -> None:
    """Set the chosen values to zero."""
    if part.device.type == "cpu":
        masking_kernels.zero(part.numpy(), chosen.numpy())
    else:
        part.masked_fill_(chosen, 0)


def _count_as_written(parameter: nn.Parameter) -> None:
    """Let autograd know: NumPy writes past it, and a graph that was made before must not be used with other values."""
    if not parameter.is_inference():
        torch.autograd.graph.increment_version(parameter)


def _packed(pruned: torch.Tensor) -> np.ndarray:
    return np.packbits(pruned.cpu().numpy(), bitorder="little")


def _unpacked(bits: np.ndarray, size: int) -> torch.Tensor:
    return torch.from_numpy(unpack(bits, (size,)))


def _flat(name: str, parameter: nn.Parameter) -> torch.Tensor:
    """All elements of a parameter as one vector of integers that shares its memory, in the order they lie in it."""
    dense = parameter.detach().permute(_memory_order(parameter))
    if not dense.is_contiguous() or parameter.is_meta:
        raise UserError(f"'{name}' has no memory of its own (expanded, a view with gaps, or on the meta device)")
    return dense.view(-1).view(_BITS[parameter.element_size()])


def _like(parameter: nn.Parameter, kept: torch.Tensor) -> torch.Tensor:
    """A mask as a vector in the order of `_flat`; a copy only where the parameter is not row-major."""
    return kept.permute(_memory_order(parameter)).reshape(-1)


def _memory_order(parameter: torch.Tensor) -> list[int]:
    """Dimensions from the outermost in memory inwards; channels-last convolutions are not row-major."""
    return sorted(range(parameter.dim()), key=lambda dim: -parameter.stride()[dim])


def _targets(model: nn.Module, mask: Mapping[str, torch.Tensor]) -> list[tuple[str, nn.Parameter, torch.Tensor]]:
    """Names, parameters and masks, checked to fit."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    named: dict[int, str] = {}
    targets = []
    for name, kept in mask.items():
        if name not in parameters:
            example = f"; its parameters are called like '{next(iter(parameters))}'" if parameters else ""
            raise UserError(f"mask: {type(model).__name__} has no parameter '{name}'{example}")
        parameter = parameters[name]
        if not isinstance(kept, torch.Tensor) or kept.dtype != torch.bool:
            kind = kept.dtype if isinstance(kept, torch.Tensor) else type(kept).__name__
            raise UserError(f"mask: '{name}' is {kind}; allowed are bool tensors, True where a weight is kept")
        if kept.shape != parameter.shape:
            raise UserError(f"mask: '{name}' has shape {tuple(kept.shape)}, the parameter {tuple(parameter.shape)}")
        if named.setdefault(id(parameter), name) != name:
            raise UserError(f"mask: '{name}' and '{named[id(parameter)]}' are one tied parameter; mask one of them")
        targets.append((name, parameter, kept))
    return targets
