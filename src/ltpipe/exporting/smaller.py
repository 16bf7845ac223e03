"""Structured tickets as physically smaller Hugging Face checkpoints, without torch or transformers."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.filenames import CONFIG, WEIGHTS
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.checkpoints.tensorwriter import TensorData, write_tensors
from ltpipe.exporting.folder import Exported, copy_companions, provenance
from ltpipe.pruning.families import STRUCTURED_MODELS, Attention, Family, families, structured_model
from ltpipe.pruning.foreign import read_mask_for
from ltpipe.pruning.masks import Mask
from ltpipe.pruning.scopes import STRUCTURED
from ltpipe.pruning.units import lines_kept, units_of
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.files import atomic_folder
from ltpipe.runtime.jsonfiles import write_json

_COPIED = 1 << 22  # elements copied at a time


def export_smaller(checkpoint: Checkpoint, mask_path: Path, output: Path) -> Exported:
    """Write the ticket of a structured mask as a checkpoint without the pruned units.

    The result loads with plain `AutoModelForCausalLM.from_pretrained` and computes the same as the masked model, up to
    the order of sums. Tensors are copied a few rows at a time.

    Args:
        checkpoint: the model's checkpoint.
        mask_path: mask of scope heads, channels or blocks, made from it.
        output: folder to write; absent or empty.

    Raises:
        UserError: the mask belongs to another model or does not prune whole units, or no configuration of the
            architecture describes the result. Nothing is written then.
    """
    manifest, config = checkpoint.manifest, checkpoint.config
    mask = read_mask_for(mask_path, manifest)
    _check_exported(mask, mask_path, manifest.architecture)
    found = families(mask.scope, manifest, config, mask.shapes)
    kept = units_of(mask, found)
    smaller_config = _smaller_config(mask.scope, manifest.architecture, config, kept)
    weights = checkpoint.weights
    names = _new_names(weights, manifest, kept) if mask.scope == "blocks" else {name: name for name in weights.specs}
    lines = {} if mask.scope == "blocks" else _lines(found, kept)
    tensors = [_smaller(weights, name, new, *lines.get(name, (0, None))) for name, new in names.items()]
    with atomic_folder(output) as place:
        write_tensors(place / WEIGHTS, tensors, provenance(mask))
        write_json(place / CONFIG, smaller_config)
        copy_companions(checkpoint, place)
    buffers = {new for name, new in names.items() if manifest.tensors[name].buffer}
    parameters = sum(prod(tensor.shape) for tensor in tensors if tensor.name not in buffers)
    nbytes = sum(tensor.nbytes for tensor in tensors)
    return Exported(output, (manifest.parameters, parameters), (manifest.nbytes, nbytes))


def _check_exported(mask: Mask, path: Path, architecture: str) -> None:
    if mask.scope not in STRUCTURED:
        raise UserError(
            f"{path}: a mask of scope '{mask.scope}' prunes single weights and shrinks no tensor; "
            f"use a mask of scope {', '.join(STRUCTURED)}"
        )
    if mask.scope not in structured_model(architecture, mask.scope).exported:
        raise UserError(
            f"{path}: the configuration of {architecture} cannot express fewer {mask.scope}; use a mask of "
            f"scope {', '.join(STRUCTURED_MODELS[architecture].exported)}"
        )


def _smaller_config(
    scope: str, architecture: str, config: Mapping[str, Any], kept: Sequence[np.ndarray]
) -> dict[str, Any]:
    """Return the configuration of the smaller model.

    Raises:
        UserError: nothing is left, blocks differ, or the architecture does not allow the numbers.
    """
    model = STRUCTURED_MODELS[architecture]
    if scope == "blocks":
        stay = [bool(units[0]) for units in kept]
        _check_left(scope, sum(stay))
        smaller = {**config, "num_hidden_layers": sum(stay)}
        if config.get("layer_types"):
            smaller["layer_types"] = [kind for kind, left in zip(config["layer_types"], stay, strict=True) if left]
        return smaller
    (left, *others) = sorted({int(units.sum()) for units in kept})
    if others:
        raise UserError(f"blocks keep from {left} to {others[-1]} {scope}, but a configuration has one number for all")
    _check_left(scope, left)
    if scope == "channels":
        return {**config, model.channels_key: left}
    attention = Attention.of(config)
    group = attention.queries // attention.groups
    if model.heads_divide and config["hidden_size"] % (left * group):
        allowed = [n for n in range(1, attention.groups + 1) if config["hidden_size"] % (n * group) == 0]
        raise UserError(
            f"{architecture} requires the number of heads to divide its hidden size {config['hidden_size']}, but "
            f"{left} groups of {group} heads do not; keep {', '.join(map(str, allowed))} of "
            f"{attention.groups} groups"
        )
    heads = {"num_attention_heads": left * group, "num_key_value_heads": left, "head_dim": attention.size}
    return {**config, **heads}


def _check_left(scope: str, left: int) -> None:
    if not left:
        raise UserError(f"the mask prunes all {scope}; a checkpoint needs at least one; choose a lower sparsity")


def _new_names(weights: TensorFile, manifest: Manifest, kept: Sequence[np.ndarray]) -> dict[str, str]:
    """Return the names of the tensors that stay, old to new, with blocks renumbered."""
    place = list(accumulate((int(units[0]) for units in kept), initial=0))
    names = {}
    for name in weights.specs:
        if not manifest.in_blocks(name):
            names[name] = name
            continue
        block, _, rest = name.removeprefix(f"{manifest.blocks}.").partition(".")
        if kept[int(block)][0]:
            names[name] = f"{manifest.blocks}.{place[int(block)]}.{rest}"
    return names


def _lines(found: Sequence[Family], kept: Sequence[np.ndarray]) -> dict[str, tuple[int, np.ndarray]]:
    """Return the axis of each tensor that shrinks, and which of its rows or columns stay; biases follow rows."""
    lines = lines_kept(found, kept)
    biases = {name.removesuffix("weight") + "bias": line for name, line in lines.items() if line[0] == 0}
    return lines | biases


def _smaller(weights: TensorFile, name: str, new: str, axis: int, stay: np.ndarray | None) -> TensorData:
    """Return the rows (`axis` 0) or columns (1) of a tensor where `stay`, bool, is True; all if it is None."""
    spec, array = weights.spec(name), weights.array(name)
    if stay is None:
        return TensorData(new, spec.dtype, spec.shape, [array])
    shape = (*spec.shape[:axis], int(stay.sum()), *spec.shape[axis + 1 :])
    return TensorData(new, spec.dtype, shape, _chosen(array, axis, stay))


def _chosen(array: np.ndarray, axis: int, stay: np.ndarray) -> Iterator[np.ndarray]:
    step = max(1, _COPIED // max(1, prod(array.shape[1:])))
    for start in range(0, len(array), step):
        rows = array[start : start + step]
        yield rows[stay[start : start + step]] if axis == 0 else rows[:, stay]
