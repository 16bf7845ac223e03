"""The overlap of all masks of a model, as tables."""

from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from ltpipe.analysis.overlap import check_comparable, compare_tensor, layerwise_chance, total
from ltpipe.pruning.foreign import read_any_mask
from ltpipe.pruning.masks import Mask
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.files import allow_open_files
from ltpipe.runtime.frames import Columns, Frame, count, frame, number, word
from ltpipe.runtime.progress import track

AXES = ("criterion", "scope", "seed", "sparsity")
"""Axes that identify the masks of a model."""

_PAIR: Columns = {
    "model": word("name of the model"),
    "differs_in": word("the axis in which the two masks differ"),
    **{
        f"{axis}_{side}": {"seed": count, "sparsity": number}.get(axis, word)(f"{axis} of mask {side}")
        for side in ("a", "b")
        for axis in AXES
    },
}
_MEASURES: Columns = {
    "weights": count("prunable weights"),
    "kept_a": count("weights that mask a keeps"),
    "kept_b": count("weights that mask b keeps"),
    "both": count("weights that both keep"),
    "jaccard": number("Jaccard index: kept by both / kept by either"),
    "jaccard_chance": number("Jaccard index of independent masks with the same densities"),
    "hamming": number("Hamming distance: fraction of weights that only one of them keeps"),
    "hamming_chance": number("Hamming distance of independent masks with the same densities"),
}
_SPEARMAN: Columns = {"spearman": number("Spearman's rank correlation of the masks; 0 by chance")}

OVERLAP: Columns = {
    **_PAIR,
    **_MEASURES,
    "jaccard_chance_layerwise": number("Jaccard index of independent masks with the same densities in every tensor"),
    "hamming_chance_layerwise": number("Hamming distance of independent masks with the same densities in every tensor"),
    **_SPEARMAN,
}
"""Columns of the overlap table, one row per pair of masks, over all their weights."""

OVERLAP_LAYERS: Columns = {**_PAIR, "tensor": word("name of the tensor"), **_MEASURES, **_SPEARMAN}
"""Columns of the overlap table per tensor."""


def overlap_tables(model: str, paths: Sequence[Path]) -> tuple[Frame, Frame]:
    """Overlap of all masks of a model that differ in exactly one of criterion, scope, seed and sparsity.

    A mask without a seed is compared with masks of every seed. Pairs grow with the square of the masks, so every mask
    is opened and checked once, all are mapped together, and all pairs are compared tensor by tensor: each byte comes
    from the disk once, however little of the masks main memory holds.

    Returns:
        One row a pair, and one row a pair and tensor.

    Raises:
        UserError: the masks are not of one model, or prune other tensors.
    """
    import pandas as pd

    allow_open_files(len(paths))
    found = list(related([(path, read_any_mask(path)) for path in paths]))
    for (_, a), (path, b), _ in found:
        if a.checkpoint and b.checkpoint:  # one that does not say it is compared by the names and shapes of its weights
            b.check_made_for(a.checkpoint, path)
        check_comparable(a, b)
    names = list(found[0][0][1].bits) if found else []
    counted = [
        [compare_tensor(a, b, name) for (_, a), (_, b), _ in found] for name in track(names, "comparing", "tensor")
    ]
    pairs: list[dict[str, Any]] = []
    layers = [frame([], OVERLAP_LAYERS)]
    for ((_, a), (_, b), differs_in), overlaps in zip(found, zip(*counted, strict=True), strict=True):
        parts = dict(zip(names, overlaps, strict=True))
        pair = {"model": model, "differs_in": differs_in, **_axes(a, "_a"), **_axes(b, "_b")}
        pairs.append(pair | total(parts.values()).measures | layerwise_chance(parts))
        rows = [pair | {"tensor": name} | part.measures for name, part in parts.items()]
        layers.append(frame(rows, OVERLAP_LAYERS))
    return frame(pairs, OVERLAP), pd.concat(layers[1:] or layers, ignore_index=True)


Opened = tuple[Path, Mask]


def related(masks: Sequence[Opened]) -> Iterator[tuple[Opened, Opened, str]]:
    """Pairs of masks that differ in one axis only, and which, in a fixed order of the masks.

    Raises:
        UserError: two of them are of the same criterion, scope, seed and sparsity.
    """
    for first, second in combinations(sorted(masks, key=lambda opened: (_order(opened[1]), str(opened[0]))), 2):
        a, b = _order(first[1]), _order(second[1])
        if a == b:
            raise UserError(
                f"{second[0]}: has the criterion, scope, seed and sparsity of {first[0]}; give each mask once"
            )
        differing = [
            axis
            for axis, x, y in zip(AXES, a, b, strict=True)
            if x != y and not (axis == "seed" and a[0] != b[0] and -1 in (x, y))
        ]
        if len(differing) == 1:
            yield first, second, differing[0]


def _axes(mask: Mask, side: str) -> dict[str, Any]:
    values = (mask.criterion, mask.scope, mask.seed, float(mask.sparsity))
    return {f"{axis}{side}": value for axis, value in zip(AXES, values, strict=True)}


def _order(mask: Mask) -> tuple[str, str, int, float]:
    return mask.criterion, mask.scope, -1 if mask.seed is None else mask.seed, float(mask.sparsity)
