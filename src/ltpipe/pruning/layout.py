"""The layout of a model's tensors: which dimensions are outputs and inputs, and which block they are in."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from math import prod

import numpy as np

from ltpipe.checkpoints.manifest import Manifest

_CONVOLUTIONS = ("Conv1d", "Conv2d", "Conv3d")


@dataclass(frozen=True)
class Layout:
    """What making a mask requires of the model besides scores.

    A tensor is a stack of matrices [matrices, output rows, input columns]. For tensors that the load stage observed in
    matrix products, this is known: [experts, out, in] for fused experts, [experts, in, out] if inputs come first,
    several experts in one dimension (DBRX). For other tensors:

    - two dimensions: one matrix, [out, in];
    - a convolution: one matrix, [out, everything else];
    - three dimensions: [matrices, out, in];
    - one dimension or none: a single row.

    Attributes:
        seen: tensor name to number, rows and columns of its matrices, as stored.
        inputs_first: names of tensors in which these rows are inputs, as in GPT-2's `Conv1D`.
        modules: tensor name to class name of the module that owns it.
        stacks: the model's lists of blocks, and the number of blocks before each.
    """

    seen: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    inputs_first: Collection[str] = ()
    modules: Mapping[str, str] = field(default_factory=dict)
    stacks: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, manifest: Manifest) -> "Layout":
        """Return the layout of a canonical checkpoint."""
        entries = manifest.tensors
        stacks, before = {}, 0
        for stack in (manifest.blocks, *manifest.further):
            stacks[stack] = before
            before += len({manifest.block_of(name) for name in entries if name.startswith(f"{stack}.")})
        return cls(
            {name: entry.matrices for name, entry in entries.items() if entry.matrices is not None},
            frozenset(name for name, entry in entries.items() if entry.inputs_first),
            {name: entry.module for name, entry in entries.items()},
            stacks,
        )

    def stack(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the number of matrices in a tensor, and the dimensions of one (for a convolution, all dimensions)."""
        if name in self.seen:
            return self.seen[name]
        if len(shape) > 2 and self.modules.get(name) not in _CONVOLUTIONS:
            return (prod(shape[:-2]), *shape[-2:])
        return (1, *((1,) * (2 - len(shape))), *shape)

    def matrices(self, name: str, shape: tuple[int, ...], flat: np.ndarray) -> np.ndarray:
        """Return a view of a tensor's row-major elements as [matrices, output rows, input columns]."""
        count, first, *rest = self.stack(name, shape)
        stacked = flat.reshape(count, first, prod(rest))
        return stacked.swapaxes(1, 2) if name in self.inputs_first else stacked

    def columns(self, name: str, shape: tuple[int, ...]) -> int:
        """Return the number of input columns of a tensor's matrices."""
        _, first, *rest = self.stack(name, shape)
        return first if name in self.inputs_first else prod(rest)

    def block(self, name: str) -> str | None:
        """Return the index of a tensor's block, counted through all lists of blocks; None outside of them."""
        for stack, before in self.stacks.items():
            if name.startswith(f"{stack}."):
                number = name.removeprefix(f"{stack}.").partition(".")[0]
                return str(int(number) + before) if number.isdigit() else number
        return None
