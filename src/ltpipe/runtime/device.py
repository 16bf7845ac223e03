"""The device a stage computes on."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ltpipe.runtime.errors import UserError
from ltpipe.runtime.memory import available_host_bytes

AUTO_SHARD = "auto-shard"
"""Names all accelerators that a process sees, which together hold a model's weights."""

FAKE = "fakegpu"
"""Type of the fake device of `ltpipe.runtime.fake_device`."""


def has_streams(device: torch.device) -> bool:
    """Return whether copies to the device can overlap with computation, from pinned memory on their own stream."""
    return device.type not in ("cpu", FAKE)


def devices_named(name: str) -> tuple[torch.device, ...]:
    """Return the devices called `name`: one, or for `auto-shard` all accelerators that this process sees.

    Raises:
        UserError: there is no such device here, or fewer than two for `auto-shard`.
    """
    if name != AUTO_SHARD:
        return (device_named(name),)
    accelerator = _accelerator()
    count = torch.accelerator.device_count() if accelerator else 0
    if accelerator is None or count < 2:
        raise UserError(
            f"device: auto-shard spreads a model over several devices but sees {count}; use auto, or make more visible "
            "(make run GPUS=2, snakemake --resources gpu=2)"
        )
    return tuple(torch.device(accelerator.type, index) for index in range(count))


def device_named(name: str) -> torch.device:
    """Return the device called `name`; `auto` is the machine's accelerator, or the CPU if there is none.

    Raises:
        UserError: there is no such device here.
    """
    accelerator = _accelerator()
    if name == "auto":
        return accelerator or torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device: '{name}' is not a device; use auto, auto-shard, cpu, cuda, cuda:0, …") from None
    if device.type != "cpu" and (
        accelerator is None
        or device.type != accelerator.type
        or (device.index or 0) >= torch.accelerator.device_count()
    ):
        count = torch.accelerator.device_count() if accelerator else 0
        indexed = [f"{accelerator.type}:{index}" for index in range(count)] if accelerator else []
        here = ", ".join(["auto", "cpu", *indexed])
        raise UserError(f"device: '{name}' is not on this machine; use {here}")
    return device


@dataclass(frozen=True)
class DevicePeak:
    """Peak bytes on an accelerator since the process started: in tensors, and reserved by PyTorch's allocator."""

    allocated: int
    reserved: int


def device_peak(devices: Sequence[torch.device]) -> DevicePeak | None:
    """Return the peak memory of the fullest accelerator; None on the CPU."""
    if devices[0].type == "cpu":
        return None
    return DevicePeak(
        max(map(torch.accelerator.max_memory_allocated, devices)),
        max(map(torch.accelerator.max_memory_reserved, devices)),
    )


def free_bytes(device: torch.device) -> int:
    """Return the bytes available to tensors on a device; for the CPU, in main memory."""
    if device.type == "cpu":
        return available_host_bytes()
    free, _ = torch.accelerator.get_memory_info(device)
    return free


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an operation failed because a device or the host ran out of memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)  # it has no error class of its own


def _accelerator() -> torch.device | None:
    """Return the machine's accelerator, ignoring the fake device, which PyTorch counts as one."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found if found is not None and has_streams(found) else None
