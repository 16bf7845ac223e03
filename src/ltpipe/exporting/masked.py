"""Tensors of a checkpoint with pruned weights set to zero, streamed without torch."""

from collections.abc import Iterator

import numpy as np

from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.pruning.masks import Mask, unpack

_BLOCK = 1 << 22  # weights per block; a multiple of 8, so that blocks begin at whole bytes of the mask


def masked_blocks(weights: TensorFile, mask: Mask, name: str) -> Iterator[np.ndarray]:
    """Yield a tensor's values in row-major order, flat; bfloat16 as bit patterns, in which 0 is also zero."""
    flat = weights.array(name).reshape(-1)
    if name not in mask.bits:
        yield flat
        return
    for start in range(0, flat.size, _BLOCK):
        block = flat[start : start + _BLOCK].copy()
        block[~unpack(mask.bits[name][start // 8 :], (block.size,))] = 0
        yield block


def masked_array(weights: TensorFile, mask: Mask, name: str) -> np.ndarray:
    """Return a whole masked tensor."""
    return np.concatenate(list(masked_blocks(weights, mask, name))).reshape(weights.spec(name).shape)
