"""Blocks spread over several devices, each of which keeps its share of the weights.

A model that is walked block by block needs no more than that each block has its weights and its input in one place. So
the walk stays as it is: hidden states, embeddings and head are on the first device; a block's part of the batch goes to
the block's device and comes back. Nothing that is computed depends on how the blocks are spread.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map_only

from ltpipe.checkpoints.manifest import Manifest
from ltpipe.runtime.errors import UserError
from ltpipe.streaming.lending import Fetch


@dataclass(frozen=True)
class Spread:
    """How tensors are spread over devices.

    Attributes:
        share_of_block: number of the device of each block, by the block's full name.
        nbytes: of the weights that each device keeps.
    """

    share_of_block: dict[str, int]
    nbytes: tuple[int, ...]

    @classmethod
    def of(cls, manifest: Manifest, dtype: torch.dtype, count: int) -> "Spread":
        """Spread a checkpoint over `count` devices, in `dtype`, by as equal shares as whole blocks in order allow.

        What is outside the blocks belongs to the first device.

        Raises:
            UserError: a block shares a weight with what may be on another device.
        """
        sizes: dict[str, int] = {}
        for name, entry in manifest.tensors.items():
            block = block_of(name, manifest)
            size = entry.size * dtype.itemsize if entry.dtype.startswith(("F", "BF")) else entry.nbytes
            sizes[block] = sizes.get(block, 0) + size
        for alias, name in manifest.tied.items():
            if block_of(alias, manifest) != block_of(name, manifest):
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
    """The weights of a model on the devices that keep them.

    Args:
        manifest: of the checkpoint.
        fetch: gives the weights, on the first device.
        dtype: that weights of floating point come in.
        devices: which keep them.
    """

    def __init__(self, manifest: Manifest, fetch: Fetch, dtype: torch.dtype, devices: Sequence[torch.device]) -> None:
        self._manifest, self._fetch, self._devices = manifest, fetch, devices
        self._shares = Spread.of(manifest, dtype, len(devices)).share_of_block
        self._kept: dict[str, torch.Tensor] = {}

    def __call__(self, name: str) -> torch.Tensor:
        """The tensor of that name, where it belongs; fetched when it is first asked for."""
        if name not in self._kept:
            with torch.inference_mode(False):  # gradients may be asked of the same weights later
                self._kept[name] = self._fetch(name).to(self.device_of(block_of(name, self._manifest)))
        return self._kept[name]

    def device_of(self, block: str) -> torch.device:
        """The device of a block by its full name; the first one for what is in none."""
        return self._devices[self._shares.get(block, 0)]

    def forget(self) -> None:
        """Fetch everything again, because it has changed."""
        self._kept.clear()

    def install(self, name: str, block: nn.Module) -> None:
        """Let a block, with what it holds already, compute where its weights are, wherever its arguments come from."""
        for module in block.modules():
            for leaf, buffer in module.named_buffers(recurse=False):
                module._buffers[leaf] = buffer.to(self.device_of(name))
        block.forward = _elsewhere(block.forward, self.device_of(name), self._devices[0])


def _elsewhere(forward: Callable[..., Any], there: torch.device, here: torch.device) -> Callable[..., Any]:
    def moved(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = tree_map_only(torch.Tensor, lambda tensor: tensor.to(there), (args, kwargs))
        return tree_map_only(torch.Tensor, lambda tensor: tensor.to(here), forward(*args, **kwargs))

    return moved


def block_of(name: str, manifest: Manifest) -> str:
    """Full name of the block that a tensor is in; empty for one outside the blocks."""
    if not manifest.in_blocks(name):
        return ""
    number = name.removeprefix(f"{manifest.blocks}.").partition(".")[0]
    return f"{manifest.blocks}.{number}"
