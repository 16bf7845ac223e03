"""Weights of a checkpoint as torch tensors, masked on the way."""

import warnings
from collections.abc import Callable

import numpy as np
import torch

from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.pruning.masks import Mask, unpack


def fetch_from(
    weights: TensorFile, mask: Mask | None, device: torch.device, dtype: torch.dtype
) -> Callable[[str], torch.Tensor]:
    """A function from a tensor's name to its masked values on `device`.

    Floating-point tensors come in `dtype`. A tensor that needs neither conversion nor mask is the mapped file itself,
    not a copy: it must not be written to.
    """

    def fetch(name: str) -> torch.Tensor:
        stored = _as_torch(weights.array(name), weights.specs[name].dtype)
        target = dtype if stored.is_floating_point() else stored.dtype
        if mask is None or name not in mask.bits:
            return stored.to(device, target)
        values = stored.to(device, target, copy=True)
        pruned = unpack(~mask.bits[name], mask.shapes[name])  # inverted while eight to a byte
        return values.masked_fill_(torch.from_numpy(pruned).to(device), 0)

    return fetch


def _as_torch(array: np.ndarray, dtype: str) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if dtype == "BF16" else tensor
