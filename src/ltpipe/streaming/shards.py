"""Spreads blocks over several devices, each of which keeps its share of the weights.

A streamed walk only requires that each block has its weights and its input on one device. So the walk itself does not
change: hidden states, embeddings and head are on the first device; a block's part of the batch moves to the block's
device and back. The results do not depend on how the blocks are spread.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map_only

from ltpipe.checkpoints.manifest import Manifest
from ltpipe.runtime.errors import UserError
from ltpipe.streaming.offload import Fetch


@dataclass(frozen=True)
class Spread:
    """How tensors are spread over devices.

    Attributes:
        share_of_block: device index of each block, by the block's full name.
        nbytes: bytes of weights on each device.
    """

    share_of_block: dict[str, int]
    nbytes: tuple[int, ...]

    @classmethod
    def of(cls, manifest: Manifest, dtype: torch.dtype, count: int) -> "Spread":
        """Spread a checkpoint in `dtype` over `count` devices, as evenly as whole blocks in order allow.

        Tensors outside the blocks go to the first device.

        Raises:
            UserError: a block shares a weight with something that may be on another device.
        """
        sizes: dict[str, int] = {}
        for name, entry in manifest.tensors.items():
            block = manifest.walked_block(name)
            size = entry.size * dtype.itemsize if entry.dtype.startswith(("F", "BF")) else entry.nbytes
            sizes[block] = sizes.get(block, 0) + size
        for alias, name in manifest.tied.items():
            if manifest.walked_block(alias) != manifest.walked_block(name):
                raise UserError(f"device: auto-shard is not possible, because '{alias}' is tied to '{name}'; use auto")
        whole, before = sum(sizes.values()), sizes.pop("", 0)
        shares: dict[str, int] = {}
        nbytes = [before] + [0] * (count - 1)
        for block in sorted(sizes, key=lambda block: int(block.rpartition(".")[2])):
            share = min(count - 1, (2 * before + sizes[block]) * count // (2 * whole))  # where its middle falls
            shares[block] = share
            nbytes[share] += sizes[block]
            before += sizes[block]
        return cls(shares, tuple(nbytes))


class Shards:
    """A model's weights, kept on several devices.

    Args:
        manifest: the checkpoint's manifest.
        fetch: fetches weights to the first device.
        dtype: dtype of floating-point weights.
        devices: devices that keep the weights.
    """

    def __init__(self, manifest: Manifest, fetch: Fetch, dtype: torch.dtype, devices: Sequence[torch.device]) -> None:
        self._manifest, self._fetch, self._devices = manifest, fetch, devices
        self._shares = Spread.of(manifest, dtype, len(devices)).share_of_block
        self._kept: dict[str, torch.Tensor] = {}

    def __call__(self, name: str) -> torch.Tensor:
        """Return the named tensor on its device; fetch it on first use."""
        if name not in self._kept:
            with torch.inference_mode(False):  # gradients of the same weights may be needed later
                self._kept[name] = self._fetch(name).to(self.device_of(self._manifest.walked_block(name)))
        return self._kept[name]

    def device_of(self, block: str) -> torch.device:
        """Return the device of a block by its full name; the first device for everything else."""
        return self._devices[self._shares.get(block, 0)]

    def forget(self) -> None:
        """Drop all weights because they have changed, so that they are fetched again."""
        self._kept.clear()

    def install(self, name: str, block: nn.Module) -> None:
        """Make a block compute on the device of its weights, wherever its arguments are, and move its buffers there."""
        for module in block.modules():
            for leaf, buffer in module.named_buffers(recurse=False):
                module._buffers[leaf] = buffer.to(self.device_of(name))
        block.forward = _elsewhere(block.forward, self.device_of(name), self._devices[0])


def _elsewhere(forward: Callable[..., Any], there: torch.device, here: torch.device) -> Callable[..., Any]:
    def moved(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = tree_map_only(torch.Tensor, lambda tensor: tensor.to(there), (args, kwargs))
        return tree_map_only(torch.Tensor, lambda tensor: tensor.to(here), forward(*args, **kwargs))

    return moved
