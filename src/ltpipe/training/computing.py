"""Where and in which precision a model is trained: Hugging Face accelerate behind four functions."""

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
class Computing:
    """How to compute; settings of the machine, but for the precision, which changes the result.

    With several processes (`python -m torch.distributed.run`) each takes its part of every batch, and gradients are
    averaged. A process ends with the launcher, however that ended.

    Attributes:
        device: `auto` (the accelerator, if there is one) or `cpu`.
        mixed_precision: `bf16` computes forward and backward in bfloat16 where torch's autocast sees fit; weights,
            gradients and optimizer stay float32.
        threads: of the CPU. Sums of gradients depend on them in the last bits, so they are part of what makes a
            training the same twice.
    """

    device: Literal["auto", "cpu"] = "auto"
    mixed_precision: Literal["no", "bf16"] = "no"
    threads: int = 1

    def __post_init__(self) -> None:
        """Refuse threads that torch would stumble over."""
        if not 1 <= self.threads <= MOST_THREADS:
            raise UserError(f"threads: {self.threads}; allowed are 1 to {MOST_THREADS}")

    @cached_property
    def _accelerator(self) -> "Accelerator":
        from accelerate import Accelerator

        if torch.distributed.is_torchelastic_launched():  # its launcher is what has the slots of their devices
            torch.multiprocessing._prctl_pr_set_pdeathsig(signal.SIGKILL)  # type: ignore[attr-defined]  # no public name
            self._check_devices(int(os.environ["LOCAL_WORLD_SIZE"]))
        return Accelerator(cpu=self.device == "cpu", mixed_precision=self.mixed_precision)

    def _check_devices(self, processes: int) -> None:
        seen = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
        if self.device == "auto" and 0 < seen < processes:
            raise UserError(
                f"compute.processes: {processes} processes need a device each, and see {seen}; configure fewer, or let "
                f"them see more (make run GPUS={processes}, snakemake --resources gpu={processes})"
            )

    @property
    def placed_on(self) -> torch.device:
        """The device of this process."""
        return self._accelerator.device

    @property
    def processes(self) -> int:
        """How many train together."""
        return self._accelerator.num_processes

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes."""
        return self._accelerator.is_main_process

    def prepare(self, model: nn.Module) -> nn.Module:
        """Move a model to the device; what is returned is to be run forward."""
        return self._accelerator.prepare_model(model)

    def backward(self, loss: torch.Tensor) -> None:
        """Compute gradients."""
        self._accelerator.backward(loss)

    def part(self, batch: torch.Tensor) -> torch.Tensor:
        """Of the indices of a batch those of this process."""
        return batch[self._accelerator.process_index :: self.processes]

    def wait(self) -> None:
        """Until all processes are here."""
        self._accelerator.wait_for_everyone()

    def seed_noise(self, seed: int) -> None:
        """Seed the generators that layers draw from, apart for each process."""
        own = (seed + self._accelerator.process_index) % 2**63
        torch.default_generator.manual_seed(own)
        if self.placed_on.type != "cpu":
            torch.get_device_module(self.placed_on).manual_seed(own)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Train with these threads, and leave torch's generators and threads as they were."""
        threads = torch.get_num_threads()
        device = self.placed_on
        devices = [] if device.type == "cpu" else [device]
        with torch.random.fork_rng(devices, device_type=device.type if devices else "cuda"):
            torch.set_num_threads(self.threads)
            try:
                yield
            finally:
                torch.set_num_threads(threads)
