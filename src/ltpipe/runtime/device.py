"""The device a stage computes on."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ltpipe.runtime.errors import UserError
from ltpipe.runtime.memory import available_host_bytes

AUTO_SHARD = "auto-shard"
"""Stands for all accelerators that a process sees, which keep a model's weights together."""

SIMULATED = "simgpu"
"""Type of the device that `ltpipe.runtime.simulation` makes up."""


def has_streams(device: torch.device) -> bool:
    """Whether copies to the device can run beside its computation, from pinned memory on a stream of their own."""
    return device.type not in ("cpu", SIMULATED)


def devices_named(name: str) -> tuple[torch.device, ...]:
    """The devices called `name`: one, or for `auto-shard` all accelerators that this process sees.

    Raises:
        UserError: there is no such device here, or only one for `auto-shard`.
    """
    if name != AUTO_SHARD:
        return (device_named(name),)
    accelerator = _accelerator()
    count = torch.accelerator.device_count() if accelerator else 0
    if accelerator is None or count < 2:
        raise UserError(
            f"device: auto-shard spreads a model over several devices, and sees {count}; use auto, or let it see more "
            "(make run GPUS=2, snakemake --resources gpu=2)"
        )
    return tuple(torch.device(accelerator.type, index) for index in range(count))


def device_named(name: str) -> torch.device:
    """The device called `name`; `auto` is the machine's accelerator, or the CPU where there is none.

    Raises:
        UserError: there is no such device here.
    """
    accelerator = _accelerator()
    if name == "auto":
        return accelerator or torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device: '{name}' is no device; allowed are auto, auto-shard, cpu, cuda, cuda:0, …") from None
    if device.type != "cpu" and (
        accelerator is None
        or device.type != accelerator.type
        or (device.index or 0) >= torch.accelerator.device_count()
    ):
        count = torch.accelerator.device_count() if accelerator else 0
        indexed = [f"{accelerator.type}:{index}" for index in range(count)] if accelerator else []
        here = ", ".join(["auto", "cpu", *indexed])
        raise UserError(f"device: '{name}' is not on this machine; allowed here are {here}")
    return device


@dataclass(frozen=True)
class DevicePeak:
    """Most bytes on an accelerator since the process began: in tensors, and held by PyTorch's allocator."""

    allocated: int
    reserved: int


def device_peak(devices: Sequence[torch.device]) -> DevicePeak | None:
    """What was taken of the memory of the accelerator that most was taken of; None on the CPU."""
    if devices[0].type == "cpu":
        return None
    return DevicePeak(
        max(map(torch.accelerator.max_memory_allocated, devices)),
        max(map(torch.accelerator.max_memory_reserved, devices)),
    )


def free_bytes(device: torch.device) -> int:
    """What tensors may still take on a device; on the CPU, of main memory."""
    if device.type == "cpu":
        return available_host_bytes()
    free, _ = torch.accelerator.get_memory_info(device)
    return free


def is_out_of_memory(error: Exception) -> bool:
    """Whether an operation failed because a device, or the host, had no more memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)  # it has no class of its own


def _accelerator() -> torch.device | None:
    """The machine's accelerator; not a simulated one, which PyTorch counts among them."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found if found is not None and has_streams(found) else None
