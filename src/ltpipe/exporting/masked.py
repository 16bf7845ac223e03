"""Tensors of a checkpoint with pruned weights at zero, streamed without torch."""

from collections.abc import Iterator

import numpy as np

from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.pruning.masks import Mask, unpack

_BLOCK = 1 << 22  # weights at a time; a multiple of 8, so that blocks begin at whole bytes of the mask


def masked_blocks(weights: TensorFile, mask: Mask, name: str) -> Iterator[np.ndarray]:
    """A tensor's values in row-major order, flat; bfloat16 as bit patterns, of which 0 is zero too."""
    flat = weights.array(name).reshape(-1)
    if name not in mask.bits:
        yield flat
        return
    for start in range(0, flat.size, _BLOCK):
        block = flat[start : start + _BLOCK].copy()
        block[~unpack(mask.bits[name][start // 8 :], (block.size,))] = 0
        yield block


def masked_array(weights: TensorFile, mask: Mask, name: str) -> np.ndarray:
    """A whole tensor."""
    return np.concatenate(list(masked_blocks(weights, mask, name))).reshape(weights.spec(name).shape)
