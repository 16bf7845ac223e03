"""The device a stage computes on."""

import torch

from ltpipe.runtime.errors import UserError


def device_named(name: str) -> torch.device:
    """The device called `name`; `auto` is the machine's accelerator, or the CPU where there is none.

    Raises:
        UserError: there is no such device here.
    """
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name == "auto":
        return accelerator or torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device: '{name}' is no device; allowed are auto, cpu, cuda, cuda:0, …") from None
    if device.type != "cpu" and (
        accelerator is None
        or device.type != accelerator.type
        or (device.index or 0) >= torch.accelerator.device_count()
    ):
        raise UserError(f"device: '{name}' is not on this machine; allowed here are auto and cpu")
    return device


def peak_device_bytes(device: torch.device) -> int | None:
    """Most bytes that tensors held on the device since the process began; None on the CPU."""
    return None if device.type == "cpu" else torch.accelerator.max_memory_allocated(device)
