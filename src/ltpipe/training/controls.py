"""Controls for a ticket: how much of its success survives when random positions replace its kept ones.

Pure functions of masks (names to bool tensors, True where a weight is kept) and a seed. With one seed, nested masks
give nested controls. The control that keeps the positions and replaces the weights is a start from another seed.
"""

import torch

from ltpipe.training.levels import Tensors
from ltpipe.training.randomness import generator


def shuffled(mask: Tensors, seed: int) -> dict[str, torch.Tensor]:
    """Keep as many weights of each tensor as `mask`, at random positions (Frankle et al. 2021, 2009.08576)."""
    moved = {}
    for name, kept in mask.items():
        order = torch.randperm(kept.numel(), generator=generator(seed, "shuffled mask", name))
        moved[name] = kept.reshape(-1)[order].reshape(kept.shape)
    return moved


def random_mask(mask: Tensors, seed: int) -> dict[str, torch.Tensor]:
    """Keep as many weights in total as `mask`, drawn uniformly from the whole model."""
    names = sorted(mask, key=str.encode)
    sizes = [mask[name].numel() for name in names]
    order = torch.randperm(sum(sizes), generator=generator(seed, "random mask"))
    everywhere = torch.zeros(sum(sizes), dtype=torch.bool)
    everywhere[order[: sum(int(kept.sum()) for kept in mask.values())]] = True
    parts = dict(zip(names, everywhere.split(sizes), strict=True))
    return {name: parts[name].reshape(kept.shape).clone() for name, kept in mask.items()}
