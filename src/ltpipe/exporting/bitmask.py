"""A ticket in the sparse-bitmask format of compressed-tensors, written by that library's own compressor."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.contents import STORED_NAMES
from ltpipe.checkpoints.layout import CONFIG, WEIGHTS
from ltpipe.checkpoints.tensorwriter import tensor_writer
from ltpipe.exporting.checkpoint import HubNames, as_arrays, foreseen_tensors, masked_parts
from ltpipe.exporting.folder import Exported, copy_companions, origin, widest_first
from ltpipe.pruning.foreign import read_mask_for
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.files import atomic_folder
from ltpipe.runtime.jsonfiles import write_json
from ltpipe.runtime.progress import track

_WEIGHT = ".weight"


def export_bitmask(checkpoint: Checkpoint, mask_path: Path, output: Path) -> Exported:
    """Write a ticket as a checkpoint whose masked matrices are stored as nonzero values, bit masks and row offsets.

    Each tensor is compressed twice, the first time to find its size; one is in memory at a time.

    Args:
        checkpoint: the model's checkpoint.
        mask_path: mask made from it.
        output: folder to write; absent or empty.

    Raises:
        UserError: the library is not installed or has dropped the format, or the mask belongs to another model.
            Nothing is written then.
    """
    compressed = _compressor()
    manifest = checkpoint.manifest
    mask = read_mask_for(mask_path, manifest)
    weights, names = checkpoint.weights, HubNames(checkpoint)
    groups = names.groups(foreseen_tensors(weights))
    dense: list[str] = []

    def contents(group: Sequence[str]) -> Iterator[tuple[str, torch.Tensor]]:
        masked = all(name in mask.bits for name in group)
        for part, tensor in masked_parts(weights, mask, names, group).items():
            if masked and tensor.dim() == 2 and part.endswith(_WEIGHT):
                yield from compressed(tensor, part.removesuffix(_WEIGHT)).items()
            else:
                dense.append(part)
                yield part, tensor

    layout = {
        part: (STORED_NAMES[tensor.dtype], tuple(tensor.shape))
        for group in track(groups, "compressing")
        for part, tensor in contents(group)
    }
    ignored = sorted({part.removesuffix(_WEIGHT) for part in dense if part.endswith(_WEIGHT)})
    nbytes = 0
    with atomic_folder(output) as place:
        order = sorted(layout, key=lambda part: widest_first(part, layout[part][0]))
        with tensor_writer(place / WEIGHTS, {part: layout[part] for part in order}, origin(mask)) as write:
            for group in track(groups, "exporting"):
                for part, tensor in contents(group):
                    nbytes += tensor.nbytes
                    write(part, as_arrays(tensor))
        sparsity = 1 - mask.total_kept / mask.total if mask.total else 0.0
        write_json(place / CONFIG, {**checkpoint.config, **_compression(sparsity, ignored)})
        copy_companions(checkpoint, place)
    parameters = (manifest.parameters, manifest.parameters)
    return Exported(output, parameters, (manifest.nbytes, nbytes), "smaller on disk; dense again when loaded")


def _compression(sparsity: float, ignored: list[str]) -> dict[str, Any]:
    """Return the configuration's entry for the format."""
    described = {
        "format": "sparse-bitmask",
        "global_sparsity": sparsity,
        "sparsity_structure": "unstructured",
        "targets": ["Linear"],
        "ignore": ignored,
        "registry_requires_subclass": False,
    }
    return {"quantization_config": {"quant_method": "compressed-tensors", "sparsity_config": described}}


def _compressor() -> Any:
    """Return a function from a dense matrix and a prefix to the tensors that the library stores, by name."""
    try:
        from compressed_tensors.compressors.sparse_compressors.sparse_bitmask import BitmaskTensor
    except ImportError:
        raise UserError(
            "format compressed-tensors needs the library of that name with its sparse-bitmask format, which versions "
            "above 0.14 dropped: pip install --no-deps --target aside compressed-tensors==0.14.0.1 loguru, and "
            "set PYTHONPATH=aside (docs/export.md)"
        ) from None

    def compressed(matrix: torch.Tensor, prefix: str) -> Mapping[str, torch.Tensor]:
        return BitmaskTensor.from_dense(matrix).dict(prefix)

    return compressed
