"""A fake accelerator: tensors have no contents, and every byte they would take is counted.

Code runs on it unchanged: operations produce tensors of the right shape, dtype and device but compute nothing
(PyTorch's FakeTensorMode). The count is over storages, from the operation that creates one until its last tensor is
freed. So views are free, and leaks show.
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

from ltpipe.runtime.device import FAKE


@cache
def fake_accelerator() -> torch.device:
    """Return a device that only holds fake tensors, registered with PyTorch once per process.

    A backward pass on it needs `torch.autograd.set_multithreading_enabled(False)`.
    """
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    # The first backward pass starts a thread per existing device, and a thread for a device written in Python crashes.
    # So run one before registering the device.
    with torch.inference_mode(False), torch.enable_grad():
        torch.zeros((), requires_grad=True).backward()
    _setup_privateuseone_for_python_backend(FAKE)
    # Autocast and checkpoints of activations ask every device, wherever the tensors are.
    torch.get_device_module(FAKE).get_amp_supported_dtype = lambda: [torch.bfloat16, torch.float16]
    return torch.device(FAKE, 0)


CONTENTS = (DynamicOutputShapeException, DataDependentOutputException)
"""What fake tensors raise where a computation depends on the contents of a tensor."""


def fake() -> FakeTensorMode:
    """Return a mode in which tensors have no contents; tensors created before it are allowed."""
    return FakeTensorMode(allow_non_fake_inputs=True)


@dataclass(frozen=True)
class Peak:
    """Most bytes in existence at the same time, in total and by label."""

    total: int = 0
    parts: Mapping[str, int] = field(default_factory=dict)


Label = str | Callable[[torch.Tensor], str]


class ByteCounter(TorchDispatchMode):
    """Counts the bytes of all storages created on a device while it is entered.

    Works on real and fake tensors.

    Attributes:
        label: label of storages created from now on, or a function that returns a tensor's label.
        held: bytes in existence now, by label.
        peak: the peak so far.
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
        """Reset the peak to what exists now."""
        self._made_at_peak = self._made
        self.peak = Peak(sum(self.held.values()), {label: size for label, size in self.held.items() if size})

    @contextmanager
    def labelled(self, label: Label) -> Iterator[None]:
        """Count storages created inside the context as `label`."""
        before, self.label = self.label, label
        try:
            yield
        finally:
            self.label = before

    def relabel(self, tensor: torch.Tensor, label: str) -> None:
        """Count a tensor's storage as `label` from now on, and in the peak if it existed then."""
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
            self._note(leaf, counted=False)  # created before this counter was entered
        result = _as_in_earnest(func, args, kwargs or {})
        for leaf in tree_leaves(result):
            self._note(leaf, counted=True)
        return result

    def _note(self, leaf: Any, counted: bool) -> None:
        """Register a tensor's storage when first seen; drop it when it is freed."""
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
    """Run an operation; correct those whose fake versions differ from the real ones.

    If the size of a result depends on contents, assume its maximum: every element matches.
    """
    aten = torch.ops.aten
    is_fake = active_fake_mode() is not None  # otherwise tensors are real and have contents
    if is_fake and func is aten.nonzero.default:
        return args[0].new_empty((args[0].numel(), args[0].dim()), dtype=torch.int64)
    if is_fake and func is aten.masked_select.default:
        return args[0].new_empty(torch.broadcast_shapes(args[0].shape, args[1].shape).numel())
    if is_fake and func is aten.index.Tensor and any(_is_mask(index) for index in args[1]):
        return func(args[0], [part for index in args[1] for part in _positions(index)])
    if func is aten.dropout.default and not args[2]:
        return args[0]  # the fake makes a copy
    if func is aten._grouped_mm.default and args[0].dtype != torch.bfloat16:
        # The fake version only accepts what one kind of accelerator does; others accept any floating point.
        a, b, *rest = args
        try:
            return func(a.to(torch.bfloat16), b.to(torch.bfloat16), *rest, **kwargs).to(a.dtype)
        except RuntimeError:  # it requires rows of a multiple of 16 bytes
            if (a.dim(), b.dim()) != (2, 3):
                raise
            return a.new_empty((a.shape[0], b.shape[-1]))
    return func(*args, **kwargs)


def _is_mask(index: Any) -> bool:
    return isinstance(index, torch.Tensor) and index.dtype == torch.bool


def _positions(index: Any) -> list[Any]:
    """Return an index as position tensors; a mask becomes one per dimension."""
    if not _is_mask(index):
        return [index]
    return list(index.new_empty((index.dim(), index.numel()), dtype=torch.int64))


@dataclass
class _Storage:
    size: int
    label: str
    number: int
    alive: weakref.ref | None = None
