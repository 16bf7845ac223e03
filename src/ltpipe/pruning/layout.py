"""How tensors lie in the model: which of their dimensions are outputs and inputs, and which block they are in."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod

import numpy as np

from ltpipe.checkpoints.manifest import Manifest

_INPUTS_FIRST = ("Conv1D", "GptOssExperts", "Llama4TextExperts")  # Conv1D is GPT-2's transposed linear layer
_CONVOLUTIONS = ("Conv1d", "Conv2d", "Conv3d")


@dataclass(frozen=True)
class Layout:
    """What a mask has to know of the model beside its scores.

    A tensor is a stack of matrices [matrices, output rows, input columns]:

    - two dimensions: one matrix, [out, in] as in `nn.Linear`, or [in, out] in GPT-2's `Conv1D`;
    - a convolution: one matrix, [out, everything else];
    - three dimensions: the fused experts of a mixture, [experts, out, in], or [experts, in, out] in GPT-OSS and
      Llama 4;
    - one dimension or none: a single row.

    Attributes:
        modules: tensor name to class name of the module that owns it; what is not named is taken as linear.
        blocks: name of the module list that holds the model's blocks, as in `Manifest`.
    """

    modules: Mapping[str, str] = field(default_factory=dict)
    blocks: str = ""

    @classmethod
    def of(cls, manifest: Manifest) -> "Layout":
        """The layout of a canonical checkpoint."""
        return cls({name: entry.module for name, entry in manifest.tensors.items()}, manifest.blocks)

    def stack(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Number of matrices in a tensor, and the dimensions of one of them (of a convolution, all of them)."""
        if len(shape) > 2 and self.modules.get(name) not in _CONVOLUTIONS:
            return (prod(shape[:-2]), *shape[-2:])
        return (1, *((1,) * (2 - len(shape))), *shape)

    def matrices(self, name: str, shape: tuple[int, ...], flat: np.ndarray) -> np.ndarray:
        """View of a tensor's row-major elements as [matrices, output rows, input columns]."""
        count, first, *rest = self.stack(name, shape)
        stacked = flat.reshape(count, first, prod(rest))
        return stacked.swapaxes(1, 2) if self.modules.get(name) in _INPUTS_FIRST else stacked

    def columns(self, name: str, shape: tuple[int, ...]) -> int:
        """Number of input columns of a tensor's matrices."""
        _, first, *rest = self.stack(name, shape)
        return first if self.modules.get(name) in _INPUTS_FIRST else prod(rest)

    def block(self, name: str) -> str | None:
        """Index of the block that a tensor is in; None outside the blocks."""
        inside = name.removeprefix(self.blocks + ".")
        return None if inside == name else inside.partition(".")[0]
