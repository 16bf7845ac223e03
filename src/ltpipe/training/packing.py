"""Masks of a training as mask files, which every analysis reads."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from ltpipe.pruning.masks import Mask, pack
from ltpipe.training.levels import Tensors


def packed(
    mask: Tensors,
    criterion: str,
    scope: str,
    seed: int | None,
    checkpoint: str,
    sparsity: str | None = None,
    options: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> Mask:
    """A mask one bit a weight, tensors in canonical order.

    Args:
        mask: names to bool tensors, True where a weight is kept.
        criterion: what ranked the weights.
        scope: `global` or `layer`: where they competed.
        seed: the replicate.
        checkpoint: fingerprint of the weights that were ranked.
        sparsity: that was asked for; None takes the exact one.
        options: as in `Mask`, with `level`: how a level pruned.
    """
    arrays = {name: mask[name].numpy() for name in sorted(mask, key=str.encode)}
    kept = {name: int(np.count_nonzero(array)) for name, array in arrays.items()}
    shapes = {name: array.shape for name, array in arrays.items()}
    total = sum(array.size for array in arrays.values())
    return Mask(
        bits={name: pack(array) for name, array in arrays.items()},
        shapes=shapes,
        kept=kept,
        criterion=criterion,
        scope=scope,
        sparsity=sparsity or (str(1 - sum(kept.values()) / total) if total else "0"),
        seed=seed,
        checkpoint=checkpoint,
        options=options,
    )
