"""Temporary masking of a model's weights."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise

import numpy as np
import torch
from torch import nn

from ltpipe.api import masking_kernels
from ltpipe.api.packed import check_bool
from ltpipe.pruning.masks import unpack
from ltpipe.runtime.errors import UserError

_CHUNK = 1 << 20  # weights with temporaries at a time: two bytes each, and an index inside torch
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@contextmanager
def masked(model: nn.Module, mask: Mapping[str, torch.Tensor]) -> Iterator[nn.Module]:
    """Turn `model` into the ticket m ⊙ θ: pruned weights are zero inside the context and restored after it.

    Restored weights are bit-identical (including -0.0 and NaN payloads), even if an exception is raised in the context
    or while the mask is applied. They are handled as integers, never multiplied. Writes to kept weights inside the
    context persist; writes to pruned weights are lost.

    Only the pruned values are saved, on the host, with one bit per weight for their positions. The mask stays the
    caller's: it may change during the context and is never widened. The device holds temporaries for a million weights
    (about 12 MiB), during entry and exit only. Tied parameters are masked once and stay tied.

    Args:
        model: on one or more devices; do not copy or cast it inside the context, but you may move it.
        mask: parameter names to bool tensors, True where a weight is kept; `{}` is the dense model.

    Yields:
        The model.

    Raises:
        UserError: the mask does not fit the model, or the dtype of a parameter was changed inside the context.
    """
    targets = _targets(model, mask)
    threads = torch.get_num_threads() if _apart([parameter for _, parameter, _ in targets]) else 1
    rooms = _rooms(targets)
    saved: list[_Saved] = []
    try:
        _call_all([partial(_prune, *target, room, saved) for target, room in zip(targets, rooms, strict=True)], threads)
        yield model
    finally:
        _call_all([each.restore for each in reversed(saved)], threads)  # overlapping values, last saved first


@torch.no_grad()
def zero_pruned(model: nn.Module, mask: Mapping[str, torch.Tensor]) -> None:
    """Set pruned weights to zero permanently.

    Raises:
        UserError: the mask does not fit the model.
    """
    for name, parameter, kept in _targets(model, mask):
        flat, flat_kept = _flat(name, parameter), _like(parameter, kept)
        for values, chunk in zip(flat.split(_CHUNK), flat_kept.split(_CHUNK), strict=True):
            values.masked_fill_(~chunk.to(values.device), 0)
        _count_as_written(parameter)


@dataclass(frozen=True)
class _Saved:
    """Pruned values of part of a parameter, as integers on the host. `bits` marks their positions: 1 is pruned."""

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
                f"'{self.name}' was cast from {self.dtype} to {self.parameter.dtype} inside masked(), so its pruned "
                "values cannot be restored; cast outside masked()"
            )
        with torch.inference_mode(self.parameter.is_inference()):
            part = _flat(self.name, self.parameter).narrow(0, self.start, self.size)
            if _on_host(part):
                masking_kernels.scatter(part.numpy(), self.bits, self.values.numpy())
                _count_as_written(self.parameter)
            else:
                part.masked_scatter_(_unpacked(self.bits, self.size).to(part.device), self.values.to(part.device))


def _apart(parameters: Sequence[nn.Parameter]) -> bool:
    """Return whether threads may change parameters at the same time: all are on the host, and no two overlap."""
    if not all(_on_host(parameter) for parameter in parameters):
        return False
    spans = sorted((each.data_ptr(), each.data_ptr() + each.numel() * each.element_size()) for each in parameters)
    return all(end <= start for (_, end), (start, _) in pairwise(spans))


def _call_all(calls: Sequence[Callable[[], None]], threads: int) -> None:
    """Make all calls in order, whether or not one of them fails; then raise its error.

    A single thread is the caller's, whose stream on a device is its own.
    """
    if threads == 1:
        with ExitStack() as stack:
            for call in reversed(calls):
                stack.callback(call)
        return
    with ThreadPoolExecutor(threads) as pool:
        made = [pool.submit(call) for call in calls]
    for each in made:
        each.result()


def _rooms(targets: Sequence[tuple[str, nn.Parameter, torch.Tensor]]) -> list[np.ndarray]:
    """Return uninitialised bytes for the pruned values of each parameter on the host and one more; none on a device.

    They are one allocation: the operating system gives huge pages for large ones, which cost a sixth of small pages.
    """
    sizes = []
    for _, parameter, kept in targets:
        places = parameter.numel() - np.count_nonzero(kept.cpu().numpy()) + 1 if _on_host(parameter) else 0
        sizes.append(8 * -(-places * parameter.element_size() // 8))  # aligned, whatever comes next
    everything = np.empty(sum(sizes), np.uint8)
    return [everything[start:stop] for start, stop in pairwise(accumulate(sizes, initial=0))]


def _prune(name: str, parameter: nn.Parameter, kept: torch.Tensor, room: np.ndarray, saved: list[_Saved]) -> None:
    """Zero the pruned weights of one parameter chunk by chunk; what restores each chunk is in `saved` before."""
    flat_kept = _like(parameter, kept)
    with torch.inference_mode(parameter.is_inference()):
        flat = _flat(name, parameter)
        for start in range(0, flat.numel(), _CHUNK):
            part, kept_here = flat[start : start + _CHUNK], flat_kept[start : start + _CHUNK]
            saving = partial(_Saved, name, parameter, parameter.dtype, start, len(part))
            pruned = _inverted(kept_here)
            if _on_host(part):
                room = _prune_on_host(part, pruned, room, saved, saving)
            else:
                there = pruned.to(part.device)
                saved.append(saving(_packed(pruned), _selected(part, there)))
                part.masked_fill_(there, 0)
        _count_as_written(parameter)


def _prune_on_host(
    part: torch.Tensor, pruned: torch.Tensor, room: np.ndarray, saved: list[_Saved], saving: Callable[..., _Saved]
) -> np.ndarray:
    """Do so with one chunk; return what is left of the room."""
    values, chosen = part.numpy(), pruned.numpy()
    selected = room.view(values.dtype)
    count = masking_kernels.select(values, chosen, selected)
    saved.append(saving(_packed(pruned), torch.from_numpy(selected[:count])))
    masking_kernels.zero(values, chosen)
    return room[count * values.itemsize :]


def _on_host(tensor: torch.Tensor) -> bool:
    return tensor.device.type == "cpu"


def _selected(part: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Return the chosen values, compacted, on the host."""
    return part.masked_select(chosen).cpu()


def _count_as_written(parameter: nn.Parameter) -> None:
    """Tell autograd about a write, which NumPy bypasses: a graph built before must not be used with new values."""
    if not parameter.is_inference():
        torch.autograd.graph.increment_version(parameter)


def _inverted(kept: torch.Tensor) -> torch.Tensor:
    """Return the inverse on the host, by NumPy: torch would start threads in each thread."""
    return torch.from_numpy(~kept.cpu().numpy())


def _packed(pruned: torch.Tensor) -> np.ndarray:
    return np.packbits(pruned.numpy(), bitorder="little")


def _unpacked(bits: np.ndarray, size: int) -> torch.Tensor:
    return torch.from_numpy(unpack(bits, (size,)))


def _flat(name: str, parameter: nn.Parameter) -> torch.Tensor:
    """View all elements of a parameter as one vector of integers, in memory order."""
    dense = parameter.detach().permute(_memory_order(parameter))
    if not dense.is_contiguous() or parameter.is_meta:
        raise UserError(
            f"'{name}' cannot be masked in place: it is expanded, a view with gaps, or on the meta device; make it "
            "contiguous or load its values first"
        )
    return dense.view(-1).view(_BITS[parameter.element_size()])


def _like(parameter: nn.Parameter, kept: torch.Tensor) -> torch.Tensor:
    """Return a mask as a vector in the order of `_flat`; copied only if the parameter is not row-major."""
    return kept.permute(_memory_order(parameter)).reshape(-1)


def _memory_order(parameter: torch.Tensor) -> list[int]:
    """Return dimensions from the outermost in memory inwards; channels-last convolutions are not row-major."""
    return sorted(range(parameter.dim()), key=lambda dim: -parameter.stride()[dim])


def _targets(model: nn.Module, mask: Mapping[str, torch.Tensor]) -> list[tuple[str, nn.Parameter, torch.Tensor]]:
    """Return names, parameters and masks after checking that they fit."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    named: dict[int, str] = {}
    targets = []
    for name, kept in mask.items():
        if name not in parameters:
            example = f"; it has parameters such as '{next(iter(parameters))}'" if parameters else ""
            raise UserError(f"mask: {type(model).__name__} has no parameter '{name}'{example}")
        parameter = parameters[name]
        check_bool(name, kept)
        if kept.shape != parameter.shape:
            raise UserError(f"mask: '{name}' has shape {tuple(kept.shape)}; the parameter has {tuple(parameter.shape)}")
        if named.setdefault(id(parameter), name) != name:
            raise UserError(
                f"mask: '{name}' and '{named[id(parameter)]}' are one tied parameter; mask only one of them"
            )
        targets.append((name, parameter, kept))
    return targets
