"""Masks from bool arrays, in memory and as files."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ltpipe.checkpoints.tensorwriter import TensorData, write_tensors
from ltpipe.pruning.masks import FORMAT, Mask
from ltpipe.pruning.sparsity import Sparsity

CHECKPOINT = "c0ffee" * 10 + "abcd"


def mask_of(arrays: Mapping[str, np.ndarray], **changes: object) -> Mask:
    """A packed mask of bool arrays."""
    described = {"criterion": "magnitude", "scope": "global", "sparsity": "0.5", "seed": None, "checkpoint": CHECKPOINT}
    described |= changes
    return Mask(
        bits={name: np.packbits(array.reshape(-1), bitorder="little") for name, array in arrays.items()},
        shapes={name: array.shape for name, array in arrays.items()},
        kept={name: int(array.sum()) for name, array in arrays.items()},
        **described | {"sparsity": Sparsity.of(described["sparsity"])},
    )


def save_mask(mask: Mask, path: Path) -> Path:
    """Write a mask as its stage would."""
    metadata = {
        "format": FORMAT, "kind": "mask", "criterion": mask.criterion, "scope": mask.scope,
        "sparsity": mask.sparsity.text, "seed": json.dumps(mask.seed), "checkpoint": mask.checkpoint,
        "total": str(mask.total), "kept": json.dumps(mask.kept), "shapes": json.dumps(mask.shapes),
    }  # fmt: skip
    write_tensors(path, [TensorData.of(name, bits) for name, bits in mask.bits.items()], metadata)
    return path


def save_weights(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Weights of a canonical checkpoint, not bfloat16, with checksums of their own."""
    write_tensors(path, [TensorData.of(name, array) for name, array in sorted(tensors.items())], {"format": "pt"})


def exact(shape: tuple[int, ...], kept: int, generator: np.random.Generator) -> np.ndarray:
    """A random bool array that keeps so many."""
    flat = np.zeros(int(np.prod(shape)), np.bool_)
    flat[generator.permutation(flat.size)[:kept]] = True
    return flat.reshape(shape)
