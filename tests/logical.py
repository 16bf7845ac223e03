"""Several devices that are made up but compute: tensors say that they are on one, and lie on the CPU."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from ltpipe.runtime.fake_device import fake_accelerator

CPU = torch.device("cpu")


class _Placed(torch.Tensor):
    """A tensor that says it is on a device of `LogicalDevices`."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor, device: torch.device):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=device,
        )

    def __init__(self, inner: torch.Tensor, _: torch.device) -> None:
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise AssertionError(f"{func} outside of the mode")


class LogicalDevices(TorchDispatchMode):
    """Runs operations on the CPU, and refuses what no machine could do: operands on different devices."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self._kind = kind

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func._schema.name == "aten::to":  # whole in inference mode, its device anywhere among the arguments
            with self:
                return func.decompose(*args, **kwargs)
        operands = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        inner = {id(leaf.inner): leaf for leaf in operands if isinstance(leaf, _Placed)}
        target = torch.device(kwargs.get("device") or self._common(func, operands))
        if not inner and target.type != self._kind:
            return func(*args, **kwargs)
        if kwargs.get("device"):
            kwargs["device"] = CPU
        args, kwargs = tree_map_only(_Placed, lambda leaf: leaf.inner, (args, kwargs))
        if func._schema.name == "aten::histc":  # transformers counts integers on accelerators; the CPU takes floats
            args = (args[0].float(), *args[1:])

        def placed(found: torch.Tensor) -> torch.Tensor:
            if id(found) in inner or target == CPU:
                return inner.get(id(found), found)
            with torch.inference_mode(False):
                return _Placed(found, target)

        return tree_map_only(torch.Tensor, placed, func(*args, **kwargs))

    def _common(self, func: Any, operands: Sequence[torch.Tensor]) -> torch.device:
        """The device where the operation is to run."""
        first, name = operands[0].device if operands else CPU, func._schema.name
        devices = {operand.device for operand in operands if operand.dim() or operand.device != CPU}
        if name.startswith("aten::index") and first != CPU:
            devices.discard(CPU)  # indices may be there
        assert len(devices) < 2 or name in ("aten::copy_", "aten::_to_copy"), f"{name} of tensors on {devices}"
        return devices.pop() if len(devices) == 1 else first


@contextmanager
def logical_devices(count: int) -> Iterator[list[torch.device]]:
    """Devices that are made up; what was on them is gone afterwards."""
    kind = fake_accelerator().type
    torch._C._set_only_lift_cpu_tensors(True)  # else torch.tensor would ask the device itself for memory
    try:
        with LogicalDevices(kind):
            yield [torch.device(kind, index) for index in range(count)]
    finally:
        torch._C._set_only_lift_cpu_tensors(False)
