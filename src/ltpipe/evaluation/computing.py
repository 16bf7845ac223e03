"""Device, precision and batch sizes of a stage's computation, and the out-of-memory back-off."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Literal, TypeVar

import torch

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.evaluation.plan import BatchSizes
from ltpipe.pruning import kernels
from ltpipe.runtime.device import devices_named, free_bytes, is_out_of_memory
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.memory import GIB
from ltpipe.runtime.threads import available_threads
from ltpipe.streaming.shards import Spread

logger = logging.getLogger(__name__)

_USABLE = 0.9  # fraction of free memory: allocators need some room between tensors

Precision = Literal["auto", "float32", "bfloat16", "float16"]
Execution = Literal["streamed", "in-memory"]
Result = TypeVar("Result")


@dataclass(frozen=True)
class ComputeSettings:
    """How to compute.

    Attributes:
        precision: dtype to compute in; `auto` is the checkpoint's own.
        micro_batch: most sequences that go through a block together; 0 means about four thousand tokens.
        device_memory: GiB that tensors may take on the device (in main memory, on the CPU); 0 means all that is free.
        device: `auto`, `auto-shard`, `cpu`, `cuda`, ….
        execution: one block of weights at a time, or all of them; `auto-shard` runs block by block and keeps them all.
        threads: CPU threads; 0 uses every processor that the process may use.
    """

    precision: Precision = "auto"
    micro_batch: int = 0
    device_memory: float = 0.0
    device: str = "auto"
    execution: Execution = "streamed"
    threads: int = 0


@dataclass(frozen=True)
class Computing:
    """Compute settings resolved on this machine, for one checkpoint.

    Attributes:
        devices: devices to compute on; several keep the weights of their blocks, and the first everything else.
        precision, dtype: dtype to compute in.
        streamed: whether one block of weights is in memory at a time.
        threads: CPU threads.
        limit: bytes that tensors may take on a device.
    """

    devices: tuple[torch.device, ...]
    precision: str
    streamed: bool
    threads: int
    limit: float

    @classmethod
    def of(cls, settings: ComputeSettings, checkpoint: Checkpoint, precision: str | None = None) -> "Computing":
        """Resolve settings for a checkpoint, and set the number of threads.

        Args:
            settings: the configured settings.
            checkpoint: the checkpoint to compute with.
            precision: precision that the computation requires, if any.

        Raises:
            UserError: a setting is not allowed, or the machine has no such device.
        """
        for name in ("micro_batch", "device_memory"):
            if not 0 <= getattr(settings, name) < inf:
                raise UserError(f"{name}: {getattr(settings, name)} is not allowed; use 0 (automatic) or more")
        threads = available_threads(settings.threads)
        torch.set_num_threads(threads)
        kernels.use_threads(threads)
        devices = devices_named(settings.device)
        if len(devices) > 1 and settings.execution != "streamed":
            raise UserError(
                "execution: in-memory is for one device; auto-shard keeps all weights too, so leave execution out"
            )
        wanted = checkpoint.precision if settings.precision == "auto" else settings.precision
        limit = settings.device_memory * GIB or _USABLE * min(map(free_bytes, devices))
        return cls(devices, precision or wanted, settings.execution == "streamed", threads, limit)

    @property
    def device(self) -> torch.device:
        """The only device, or the one with everything outside the blocks."""
        return self.devices[0]

    @property
    def shards(self) -> tuple[torch.device, ...]:
        """Devices that keep weights; none if weights are streamed or on one device."""
        return self.devices if len(self.devices) > 1 else ()

    def kept(self, manifest: Manifest) -> int:
        """Return the bytes of weights on the device that keeps most of them; 0 without shards."""
        return max(Spread.of(manifest, self.dtype, len(self.devices)).nbytes) if self.shards else 0

    @property
    def dtype(self) -> torch.dtype:
        """See `precision`."""
        return getattr(torch, self.precision)

    @property
    def accelerator(self) -> bool:
        """Whether the device has its own memory."""
        return self.device.type != "cpu"


def backing_off(
    sizes: BatchSizes,
    attempt: Callable[[BatchSizes], Result],
    smaller: Callable[[BatchSizes], BatchSizes | None] = BatchSizes.backed_off,
) -> tuple[Result, BatchSizes, list[str]]:
    """Attempt something with the given batch sizes, and with smaller ones if it runs out of memory.

    Returns:
        The attempt's result, the sizes that succeeded, and a line for each time that it ran out of memory.

    Raises:
        UserError: it ran out of memory with the smallest batch sizes.
    """
    happened: list[str] = []
    while True:
        try:
            return attempt(sizes), sizes, happened
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            less = smaller(sizes)
            if less is None:
                raise UserError(
                    f"ran out of memory with {sizes}, the smallest possible; use shorter sequences or free some memory"
                ) from None
            happened.append(f"ran out of memory with {sizes}; went on with {less}")
            logger.warning(happened[-1])
            sizes = less
