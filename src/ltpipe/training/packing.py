"""Conversion of a training's masks to mask files, which every analysis reads."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from ltpipe.pruning.masks import Mask, pack
from ltpipe.pruning.sparsity import Sparsity
from ltpipe.training.levels import Tensors


def packed(
    mask: Tensors,
    criterion: str,
    scope: str,
    seed: int | None,
    checkpoint: str,
    sparsity: Sparsity | None = None,
    options: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> Mask:
    """Pack a mask to one bit per weight, tensors in canonical order.

    Args:
        mask: names to bool tensors, True where a weight is kept.
        criterion: the criterion that ranked the weights.
        scope: where weights competed, `global` or `layer`.
        seed: the replicate.
        checkpoint: fingerprint of the ranked weights.
        sparsity: the requested sparsity; None for the exact one.
        options: as in `Mask`, plus `level`, which says how the level pruned.
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
        sparsity=sparsity or Sparsity.of(1 - sum(kept.values()) / total if total else 0),
        seed=seed,
        checkpoint=checkpoint,
        options=options,
    )
