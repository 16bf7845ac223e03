"""Magnitude masks of a live model, exact even in ties."""

import numpy as np
import torch
from torch import nn

from ltpipe.api.parameters import HostWeights, prunable_parameters, selected
from ltpipe.checkpoints.prunable import Preset
from ltpipe.pruning.cutters import Cutter, threshold_cutter
from ltpipe.pruning.histogram import histogram_of
from ltpipe.pruning.masks import unpack
from ltpipe.pruning.quantiles import histogram_quantile
from ltpipe.pruning.scopes import groups
from ltpipe.pruning.scores import RankKeys, magnitude_keys
from ltpipe.pruning.sparsity import Sparsity

_EXACT_BINS = 1000
_CHUNK = 1 << 22


def create_magnitude_mask(
    model: nn.Module,
    sparsity: float | str,
    use_histogram: bool = True,
    histogram_bins: int = _EXACT_BINS,
    only_weights: bool = True,
    preset: Preset | None = None,
) -> dict[str, torch.Tensor]:
    """Create a mask that prunes the smallest magnitudes, ranked over the whole model (Han et al. 2015, 1506.02626).

    **Exact** by default: exactly `round(sparsity * N)` of the N prunable weights are pruned. Equal magnitudes are
    pruned in canonical order: by name in byte order, then row-major. The same weights give the same mask on any device
    and in any process, and masks of increasing sparsity are nested.

    **Approximate** with `use_histogram=True` and a `histogram_bins` other than the default: weights below
    `compute_histogram_quantile(|w|, sparsity, histogram_bins)` are pruned. That threshold is at most one bin, (largest
    - smallest magnitude) / `histogram_bins`, away from the exact quantile, so the number of pruned weights is off by
    at most the number of weights whose magnitude is that close to it. Ties are kept or pruned together. It is neither
    faster nor smaller in memory than the exact mask; it serves for comparison with other libraries.

    Parameters are copied to the CPU one at a time, two or three times each. Beyond the mask, this takes memory for one
    of them on the host and none on the device. Tied parameters are ranked once, under the first of their names.

    Args:
        model: on any device; it is not changed. Weights are bfloat16, float16 or float32.
        sparsity: fraction to prune, 0 to 1; a decimal string is taken as written.
        use_histogram: if False, the mask is always exact.
        histogram_bins: any value but the default makes the mask approximate.
        only_weights: rank parameters with two or more dimensions and `weight` in their name, embeddings included; if
            False, rank every parameter with two or more dimensions. Biases and other one-dimensional parameters are
            never pruned.
        preset: rank what the pipeline ranks instead: `linear` (its default) is the weight matrices inside a model's
            blocks, `all-weights` includes those outside; see `ltpipe.checkpoints.prunable.Selection`.

    Returns:
        For every prunable parameter, a bool tensor of its shape on the CPU, True where the weight is kept.

    Raises:
        UserError: sparsity is out of range, nothing is prunable, or weights are not finite or have another dtype.
    """
    weights = HostWeights(prunable_parameters(model, only_weights) if preset is None else selected(model, preset))
    if use_histogram and histogram_bins != _EXACT_BINS:
        return _rank_roughly(weights, Sparsity.of(sparsity), histogram_bins)
    return _rank(weights, Sparsity.of(sparsity))


def compute_magnitude_importance(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return |w| of the parameters that `create_magnitude_mask` ranks, in their own dtype and shape, on the CPU.

    Parameters are copied to the CPU one at a time; the result is as large as all of them together.
    """
    weights = HostWeights(prunable_parameters(model))
    return {name: weights.tensor(name).abs() for name in weights.parameters}


def compute_histogram_quantile(values: torch.Tensor, q: float, bins: int = 1000) -> float:
    """Approximate the quantile `q` of a tensor in O(bins) memory, however large the tensor is.

    The result is at most one bin, (largest - smallest value) / `bins`, away from `numpy.quantile`; the smallest
    (q = 0) and largest value (q = 1) are exact.

    Args:
        values: floating point, any shape and device; copied to the CPU in chunks.
        q: from 0 to 1.
        bins: number of equal bins between the smallest and the largest value.

    Raises:
        UserError: there are no values, some are not finite, or `q` or `bins` is out of range.
    """
    flat = values.detach().reshape(-1)
    return histogram_quantile(lambda: (chunk.cpu().double().numpy() for chunk in flat.split(_CHUNK)), q, bins)


def _rank(weights: HostWeights, sparsity: Sparsity) -> dict[str, torch.Tensor]:
    """Return the exact mask. Everything that depends on weight values happens here, on the host."""
    keys = magnitude_keys(weights, tuple(weights.parameters))
    histogram = histogram_of(keys, "", "magnitude", None)
    return cut(keys, threshold_cutter(keys, histogram, groups("global", sparsity, keys.sizes)))


def cut(keys: RankKeys, cutter: Cutter) -> dict[str, torch.Tensor]:
    """Return bool tensors, True where a weight is kept, from a cutter's packed bits."""
    shapes = dict(zip(keys.names, keys.shapes, strict=True))
    return {
        name: torch.from_numpy(unpack(np.concatenate([np.zeros(0, np.uint8), *cutter.packed(name)]), shape))
        for name, shape in shapes.items()
    }


def _rank_roughly(weights: HostWeights, sparsity: Sparsity, bins: int) -> dict[str, torch.Tensor]:
    """Return the mask of an approximate threshold."""
    names = tuple(weights.parameters)
    threshold = histogram_quantile(
        lambda: (chunk for name in names for chunk in weights.magnitudes(name)), float(sparsity), bins
    )
    return {
        name: torch.from_numpy(np.concatenate([chunk >= threshold for chunk in weights.magnitudes(name)])).view(
            weights.parameters[name].shape
        )
        for name in names
    }
