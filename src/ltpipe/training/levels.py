"""One level of iterative magnitude pruning (Frankle & Carbin 2019, 1803.03635): which remaining weights to prune.

Pure functions. A mask is a dict of parameter names to bool tensors, True where a weight is kept. Its names are the
prunable tensors; all others are never pruned.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

import torch

from ltpipe.pruning.sparsity import Sparsity
from ltpipe.runtime.errors import UserError

Tensors = Mapping[str, torch.Tensor]

Kind = Literal["convolution", "hidden", "output"]
"""The kind of layer a prunable tensor belongs to. `output` is the last layer, `hidden` every other matrix."""


def dense_mask(weights: Tensors, names: Iterable[str]) -> dict[str, torch.Tensor]:
    """Return the mask of level 0, which keeps every weight of the tensors `names`."""
    return {name: torch.ones(weights[name].shape, dtype=torch.bool) for name in names}


def magnitudes(weights: Tensors) -> dict[str, torch.Tensor]:
    """Return |w|, the score of iterative magnitude pruning."""
    return {name: tensor.detach().abs() for name, tensor in weights.items()}


def prune_layers(
    scores: Tensors, mask: Tensors, fractions: Mapping[str, Sparsity | float | str]
) -> dict[str, torch.Tensor]:
    """Prune `round(fraction * remaining)` of the remaining weights of each tensor, the lowest scores first.

    Counts are exact, with halves rounded to even. Among equal scores, the earlier in row-major order is pruned first.
    Weights pruned before do not compete, whatever their scores: masks are nested, and a weight that trained to exactly
    0 is not mistaken for a pruned one.

    Args:
        scores: scores of all tensors in `mask`, floating point, any device; others are ignored.
        mask: the previous level's mask; it is not changed.
        fractions: fraction for each tensor in `mask`, 0 to 1; a decimal string is taken as written.

    Returns:
        The mask of this level, bool on the CPU.

    Raises:
        UserError: a fraction is missing or out of range, or scores are missing, have the wrong shape or are not finite.
    """
    if missing := sorted(mask.keys() - fractions.keys()):
        raise UserError(f"no fraction to prune per level for {', '.join(missing)}; give one for each tensor")
    pruned: dict[str, torch.Tensor] = {}
    for name, kept in mask.items():
        pruned |= _without_lowest(scores, {name: kept}, Sparsity.of(fractions[name]).count(int(kept.sum())))
    return pruned


def prune_globally(scores: Tensors, mask: Tensors, fraction: Sparsity | float | str) -> dict[str, torch.Tensor]:
    """Prune `round(fraction * remaining)` of all remaining weights, ranked over all tensors together.

    Works like `prune_layers`; among equal scores, the tensor whose name comes first in byte order is pruned first.
    """
    remaining = sum(int(kept.sum()) for kept in mask.values())
    return _without_lowest(scores, mask, Sparsity.of(fraction).count(remaining))


def keep_largest(scores: Tensors, mask: Tensors, kept: Mapping[str, int]) -> dict[str, torch.Tensor]:
    """Keep exactly `kept` of the remaining weights of each tensor, those with the highest scores.

    Works like `prune_layers`. A tensor missing from `mask` is still dense.

    Raises:
        UserError: scores are not finite, or `kept` exceeds the number of weights left.
    """
    pruned: dict[str, torch.Tensor] = {}
    for name, count in kept.items():
        before = mask.get(name, torch.ones(scores[name].shape, dtype=torch.bool))
        remaining = int(before.sum())
        if not 0 <= count <= remaining:
            raise UserError(f"'{name}': cannot keep {count} of the {remaining} weights left; use 0 to {remaining}")
        pruned |= _without_lowest(scores, {name: before}, remaining - count)
    return pruned


def weights_remaining(mask: Tensors) -> float:
    """Return kept / prunable weights."""
    return sum(int(kept.sum()) for kept in mask.values()) / sum(kept.numel() for kept in mask.values())


def apply_mask(weights: Tensors, mask: Tensors) -> dict[str, torch.Tensor]:
    """Return mask ⊙ weights as new tensors: pruned weights are +0, all others and tensors without a mask unchanged."""
    return {
        name: tensor.detach().masked_fill(~mask[name], 0) if name in mask else tensor.detach().clone()
        for name, tensor in weights.items()
    }


def _without_lowest(scores: Tensors, mask: Tensors, count: int) -> dict[str, torch.Tensor]:
    names = sorted(mask, key=str.encode)
    for name in names:
        _check(name, scores.get(name), mask[name])
    kept = torch.cat([mask[name].reshape(-1) for name in names])  # a copy
    remaining = kept.nonzero().squeeze(1)
    competing = torch.cat([scores[name].detach().cpu().reshape(-1)[mask[name].reshape(-1)] for name in names])
    # A stable sort keeps equal scores in canonical order.
    lowest = torch.argsort(competing, stable=True)[:count]
    kept[remaining[lowest]] = False
    parts = kept.split([mask[name].numel() for name in names])
    by_name = {name: part.reshape(mask[name].shape).clone() for name, part in zip(names, parts, strict=True)}
    return {name: by_name[name] for name in mask}


def _check(name: str, scores: torch.Tensor | None, kept: torch.Tensor) -> None:
    if scores is None or scores.shape != kept.shape:
        found = "missing" if scores is None else f"of shape {tuple(scores.shape)}"
        raise UserError(f"scores of '{name}' are {found}; the mask has shape {tuple(kept.shape)}")
    if not bool(scores.isfinite().all()):
        raise UserError(f"scores of '{name}' are not finite: training diverged; lower the learning rate")
