"""The device a stage computes on."""

import torch

from ltpipe.runtime.errors import UserError

SIMULATED = "simgpu"
"""Type of the device that `ltpipe.runtime.simulation` makes up."""


def has_streams(device: torch.device) -> bool:
    """Whether copies to the device can run beside its computation, from pinned memory on a stream of their own."""
    return device.type not in ("cpu", SIMULATED)


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


def _accelerator() -> torch.device | None:
    """The machine's accelerator; not a simulated one, which PyTorch counts among them."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found if found is not None and has_streams(found) else None
