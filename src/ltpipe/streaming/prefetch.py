"""Prefetches the next block's weights to an accelerator while the current block computes."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext

import torch
from torch import nn

from ltpipe.runtime.device import has_streams

Load = Callable[[str], Mapping[str, nn.Parameter]]


class Prefetcher:
    """Prefetches the weights that are needed next.

    On an accelerator the copies run on their own stream, in parallel with the computation already queued; two blocks of
    weights are then in memory. On the CPU nothing is prefetched: it would compete for the same processors.
    """

    def __init__(self, device: torch.device) -> None:
        self._useful = device.type != "cpu"
        self._stream = torch.Stream(device) if has_streams(device) else None
        self._next: tuple[str, Mapping[str, nn.Parameter]] | None = None

    def start(self, name: str, load: Load) -> None:
        """Start to load what will be taken next."""
        if self._useful:
            with self._stream or nullcontext():
                self._next = name, load(name)

    def take(self, name: str, load: Load) -> Mapping[str, nn.Parameter]:
        """Return `load(name)`, prefetched or loaded now."""
        (begun, weights), self._next = self._next or ("", {}), None
        if begun != name:
            return load(name)
        if self._stream is not None:
            computing = torch.accelerator.current_stream(self._stream.device)
            computing.wait_stream(self._stream)
            for weight in weights.values():
                weight.record_stream(computing)  # its memory is not reused before the computation is done with it
        return weights
