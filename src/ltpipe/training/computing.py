"""The device and precision a model trains with: a thin layer over Hugging Face accelerate."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from ltpipe.runtime.errors import UserError
from ltpipe.runtime.threads import MOST_THREADS

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class TrainingCompute:
    """How to compute. These are machine settings, except the precision, which changes the result.

    With several processes (`python -m torch.distributed.run`), each takes its part of every batch and gradients are
    averaged. A process dies with the launcher, however the launcher ended.

    Attributes:
        device: `auto` (the accelerator, if there is one) or `cpu`.
        mixed_precision: `bf16` runs forward and backward passes in bfloat16 where torch's autocast allows it; weights,
            gradients and optimizer state stay float32.
        threads: CPU threads. They affect the last bits of gradient sums, so a bit-identical training needs the same
            number.
    """

    device: Literal["auto", "cpu"] = "auto"
    mixed_precision: Literal["no", "bf16"] = "no"
    threads: int = 1

    def __post_init__(self) -> None:
        """Reject thread counts that torch cannot handle."""
        if not 1 <= self.threads <= MOST_THREADS:
            raise UserError(f"threads: {self.threads} is not allowed; use 1 to {MOST_THREADS}")

    @cached_property
    def _accelerator(self) -> "Accelerator":
        from accelerate import Accelerator

        if torch.distributed.is_torchelastic_launched():  # the launcher holds the slots of the processes' devices
            torch.multiprocessing._prctl_pr_set_pdeathsig(signal.SIGKILL)  # type: ignore[attr-defined]  # no public name
            self._check_devices(int(os.environ["LOCAL_WORLD_SIZE"]))
        return Accelerator(cpu=self.device == "cpu", mixed_precision=self.mixed_precision)

    def _check_devices(self, processes: int) -> None:
        seen = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
        if self.device == "auto" and 0 < seen < processes:
            raise UserError(
                f"compute.processes: {processes} needs a device per process but sees only {seen}; use fewer processes "
                f"or make more devices visible (make run GPUS={processes}, snakemake --resources gpu={processes})"
            )

    @property
    def placed_on(self) -> torch.device:
        """This process's device."""
        return self._accelerator.device

    @property
    def processes(self) -> int:
        """Number of processes that train together."""
        return self._accelerator.num_processes

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes."""
        return self._accelerator.is_main_process

    def prepare(self, model: nn.Module) -> nn.Module:
        """Move a model to the device and return the model to run forward passes with."""
        return self._accelerator.prepare_model(model)

    def backward(self, loss: torch.Tensor) -> None:
        """Compute gradients."""
        self._accelerator.backward(loss)

    def part(self, batch: torch.Tensor) -> torch.Tensor:
        """Return this process's share of a batch's indices."""
        return batch[self._accelerator.process_index :: self.processes]

    def wait(self) -> None:
        """Wait until all processes reach this point."""
        self._accelerator.wait_for_everyone()

    def seed_noise(self, seed: int) -> None:
        """Seed the generators that layers draw from, differently in each process."""
        own = (seed + self._accelerator.process_index) % 2**63
        torch.default_generator.manual_seed(own)
        if self.placed_on.type != "cpu":
            torch.get_device_module(self.placed_on).manual_seed(own)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Compute with these threads, then restore torch's generators and threads."""
        threads = torch.get_num_threads()
        device = self.placed_on
        devices = [] if device.type == "cpu" else [device]
        with torch.random.fork_rng(devices, device_type=device.type if devices else "cuda"):
            torch.set_num_threads(self.threads)
            try:
                yield
            finally:
                torch.set_num_threads(threads)
