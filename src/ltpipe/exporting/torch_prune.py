"""A ticket as a state dict of `torch.nn.utils.prune`: `weight_orig` and `weight_mask` in place of `weight`."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.header import STORAGE, widest_first
from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.checkpoints.tensorwriter import TensorData, write_tensors
from ltpipe.exporting.folder import Exported, provenance
from ltpipe.pruning.foreign import read_mask_for
from ltpipe.pruning.masks import Mask, unpack_chunks
from ltpipe.runtime.errors import UserError

_ONE = {"BF16": 0x3F80}
"""The number 1 in dtypes stored as bit patterns."""


def export_torch_prune(checkpoint: Checkpoint, mask_path: Path, output: Path) -> Exported:
    """Write the state dict of the model after `prune.custom_from_mask` on every masked parameter, as safetensors.

    Originals are the dense weights, so nothing is lost. Masks have the dtype of their weights, as in torch. Tied
    parameters appear under each of their names, as in a state dict.

    Args:
        checkpoint: the model's checkpoint.
        mask_path: mask made from it.
        output: safetensors file to write.

    Raises:
        UserError: the mask belongs to another model.
    """
    manifest = checkpoint.manifest
    mask = read_mask_for(mask_path, manifest)
    if mask.changed:
        raise UserError(f"{mask_path}: {mask.criterion} also changed the weights that its mask keeps; use format hf")
    weights = checkpoint.weights
    stored = {name: name for name in weights.specs} | dict(manifest.tied)
    tensors = [tensor for name, source in stored.items() for tensor in _tensors(weights, mask, name, source)]
    tensors.sort(key=lambda tensor: widest_first(tensor.name, tensor.dtype))
    write_tensors(output, tensors, provenance(mask))
    note = "every pruned tensor is stored twice: the dense original, and a mask of the same dtype"
    nbytes = sum(tensor.nbytes for tensor in tensors)
    return Exported(output, (manifest.parameters, manifest.parameters), (manifest.nbytes, nbytes), note)


def _tensors(weights: TensorFile, mask: Mask, name: str, source: str) -> Iterator[TensorData]:
    spec, array = weights.spec(source), weights.array(source)
    if source not in mask.bits:
        yield TensorData(name, spec.dtype, spec.shape, [array])
        return
    yield TensorData(f"{name}_orig", spec.dtype, spec.shape, [array])
    one = np.array(_ONE.get(spec.dtype, 1), STORAGE[spec.dtype])
    ones = (kept * one for kept in unpack_chunks(mask.bits[source], spec.size))
    yield TensorData(f"{name}_mask", spec.dtype, spec.shape, ones)
