"""An accelerator that is not there: tensors without contents, and every byte that they would take is counted.

Code runs unchanged on it: operations know shapes, dtypes and devices and make tensors of them, but compute nothing
(PyTorch's FakeTensorMode). What is counted are storages, from the operation that makes one to the moment when the last
tensor on it is gone, so views are free and a leak is seen.
"""

import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch._guards import active_fake_mode
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ltpipe.runtime.device import SIMULATED


@cache
def simulated_accelerator() -> torch.device:
    """A device that holds fake tensors only. Registered with PyTorch once in a process.

    A backward pass works on it under `torch.autograd.set_multithreading_enabled(False)`.
    """
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    # The first backward pass starts one thread for each device there is; a thread for one that is written in Python
    # crashes. So let it be over before there is any.
    with torch.inference_mode(False), torch.enable_grad():
        torch.zeros((), requires_grad=True).backward()
    _setup_privateuseone_for_python_backend(SIMULATED)
    return torch.device(SIMULATED, 0)


CONTENTS = (DynamicOutputShapeException, DataDependentOutputException)
"""What fakes raise where a computation goes on as the contents of a tensor say."""


def fake() -> FakeTensorMode:
    """A mode in which tensors have no contents; tensors that were made before it are allowed."""
    return FakeTensorMode(allow_non_fake_inputs=True)


@dataclass(frozen=True)
class Peak:
    """Most bytes that existed at the same time, and what they were then, by label."""

    total: int = 0
    parts: Mapping[str, int] = field(default_factory=dict)


Label = str | Callable[[torch.Tensor], str]


class ByteCounter(TorchDispatchMode):
    """Counts the bytes of all storages on a device that are made while it is entered.

    Works on real tensors as well as on fake ones.

    Attributes:
        label: what storages that are made from now on are counted as, or a function that says it of a tensor.
        held: bytes that exist now, by label.
        peak: when there were most.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._type = device.type
        self._storages: dict[int, _Storage] = {}
        self._made = self._made_at_peak = 0
        self.label: Label = "other"
        self.held: Counter[str] = Counter()
        self.peak = Peak()

    def restart(self) -> None:
        """Forget the peak so far: look for one from what exists now."""
        self._made_at_peak = self._made
        self.peak = Peak(sum(self.held.values()), {label: size for label, size in self.held.items() if size})

    @contextmanager
    def labelled(self, label: Label) -> Iterator[None]:
        """Count what is made meanwhile as `label`."""
        before, self.label = self.label, label
        try:
            yield
        finally:
            self.label = before

    def relabel(self, tensor: torch.Tensor, label: str) -> None:
        """Count the storage of a tensor as `label`, from now on and at the peak, if it was there."""
        storage = self._storages.get(tensor.untyped_storage()._cdata)
        if storage is None:
            return
        self.held[storage.label] -= storage.size
        self.held[label] += storage.size
        if storage.number <= self._made_at_peak:
            parts = Counter(self.peak.parts)
            parts[storage.label] -= storage.size
            parts[label] += storage.size
            self.peak = Peak(self.peak.total, dict(+parts))
        storage.label = label

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for leaf in tree_leaves((args, kwargs)):
            self._note(leaf, counted=False)  # made before this counter was entered
        result = _as_in_earnest(func, args, kwargs or {})
        for leaf in tree_leaves(result):
            self._note(leaf, counted=True)
        return result

    def _note(self, leaf: Any, counted: bool) -> None:
        """Remember the storage of a tensor when it is first seen, and forget it when it is freed."""
        if not isinstance(leaf, torch.Tensor) or leaf.device.type != self._type:
            return
        storage = leaf.untyped_storage()
        key = storage._cdata
        if key in self._storages:
            return
        self._made += 1
        label = self.label if isinstance(self.label, str) else self.label(leaf)
        entry = _Storage(storage.nbytes() if counted else 0, label, self._made)
        entry.alive = weakref.ref(storage, lambda _: self._free(key))
        self._storages[key] = entry
        self.held[entry.label] += entry.size
        total = sum(self.held.values())
        if total > self.peak.total:
            self._made_at_peak = self._made
            self.peak = Peak(total, {label: size for label, size in self.held.items() if size})

    def _free(self, key: int) -> None:
        entry = self._storages.pop(key)
        self.held[entry.label] -= entry.size


def _as_in_earnest(func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """Run an operation; mend those whose fakes do what the real ones do not.

    Where the size of a result depends on contents, it is what it can be at most: every element is found.
    """
    aten = torch.ops.aten
    simulated = active_fake_mode() is not None  # what is counted in earnest has contents
    if simulated and func is aten.nonzero.default:
        return args[0].new_empty((args[0].numel(), args[0].dim()), dtype=torch.int64)
    if simulated and func is aten.masked_select.default:
        return args[0].new_empty(torch.broadcast_shapes(args[0].shape, args[1].shape).numel())
    if simulated and func is aten.index.Tensor and any(_is_mask(index) for index in args[1]):
        return func(args[0], [part for index in args[1] for part in _positions(index)])
    if func is aten.dropout.default and not args[2]:
        return args[0]  # the fake makes a copy
    if func is aten._grouped_mm.default and args[0].dtype != torch.bfloat16:
        # The fake knows what one kind of accelerator can do, others take any floating point.
        a, b, *rest = args
        try:
            return func(a.to(torch.bfloat16), b.to(torch.bfloat16), *rest, **kwargs).to(a.dtype)
        except RuntimeError:  # it wants rows of whole 16 bytes
            if (a.dim(), b.dim()) != (2, 3):
                raise
            return a.new_empty((a.shape[0], b.shape[-1]))
    return func(*args, **kwargs)


def _is_mask(index: Any) -> bool:
    return isinstance(index, torch.Tensor) and index.dtype == torch.bool


def _positions(index: Any) -> list[Any]:
    """What an index is as positions: a mask is one for each of its dimensions."""
    if not _is_mask(index):
        return [index]
    return list(index.new_empty((index.dim(), index.numel()), dtype=torch.int64))


@dataclass
class _Storage:
    size: int
    label: str
    number: int
    alive: weakref.ref | None = None
