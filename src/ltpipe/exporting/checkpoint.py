"""A ticket as a plain Hugging Face checkpoint: pruned weights are zeros."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ltpipe.checkpoints.canonical import open_weights, read_config
from ltpipe.checkpoints.contents import STORED_NAMES
from ltpipe.checkpoints.header import TORCH_NAMES
from ltpipe.checkpoints.layout import CONFIG, MANIFEST, WEIGHTS
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.checkpoints.tensorwriter import tensor_writer
from ltpipe.exporting.folder import Exported, copy_tokenizer, origin
from ltpipe.exporting.masked import masked_array, masked_blocks
from ltpipe.pruning.masks import Mask, check_fits, read_mask
from ltpipe.runtime.files import atomic_folder
from ltpipe.runtime.jsonfiles import write_json
from ltpipe.runtime.progress import track
from ltpipe.streaming.skeleton import build_skeleton


class HubNames:
    """How transformers stores the tensors of a live model: names, and fused tensors in parts.

    What `save_pretrained` does to a whole model is done tensor by tensor.
    """

    def __init__(self, folder: Path) -> None:
        self._model: nn.Module = build_skeleton(folder, torch.float32)

    def parts(self, name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        """The tensors that one tensor of the live model becomes, by name; itself where only its name changes."""
        from transformers.core_model_loading import revert_weight_conversion

        return revert_weight_conversion(self._model, {name: tensor})


def export_checkpoint(folder: Path, mask_path: Path, output: Path) -> Exported:
    """Write a ticket as a folder that plain `AutoModelForCausalLM.from_pretrained` loads.

    Tensors are streamed; only those that transformers stores in parts (fused experts) are in memory, one at a time.

    Args:
        folder: canonical checkpoint folder.
        mask_path: mask made from it.
        output: folder to write; absent or empty.

    Raises:
        UserError: the mask is of another model, or the folder holds something. Nothing is written then.
    """
    manifest, mask = Manifest.read(folder / MANIFEST), read_mask(mask_path)
    check_fits(mask, manifest, mask_path)
    weights, names = open_weights(folder), HubNames(folder)
    layout = {
        part: (STORED_NAMES[tensor.dtype], tuple(tensor.shape))
        for name in weights.specs
        for part, tensor in names.parts(name, _foreseen(weights, name)).items()
    }
    with atomic_folder(output) as place:
        with tensor_writer(place / WEIGHTS, layout, origin(mask)) as write:
            for name in track(weights.specs, "exporting"):
                for part, chunks in _contents(weights, mask, names, name):
                    write(part, chunks)
        write_json(place / CONFIG, read_config(folder))
        copy_tokenizer(folder, place)
    pruned = mask.total - mask.total_kept
    note = f"it does not shrink: {pruned:,} pruned weights are stored as zeros"
    return Exported(output, (manifest.parameters, manifest.parameters), (manifest.nbytes, manifest.nbytes), note)


def masked_parts(weights: TensorFile, mask: Mask, names: HubNames, name: str) -> dict[str, torch.Tensor]:
    """A stored tensor with pruned weights at zero, as transformers stores it: whole in memory, by name."""
    tensor = torch.from_numpy(masked_array(weights, mask, name))
    return names.parts(name, tensor.view(torch.bfloat16) if weights.spec(name).dtype == "BF16" else tensor)


def as_arrays(tensor: torch.Tensor) -> list[np.ndarray]:
    """The contents of a tensor as `tensor_writer` takes them."""
    bits = tensor.contiguous().view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor
    return [bits.numpy()]


def _contents(
    weights: TensorFile, mask: Mask, names: HubNames, name: str
) -> Iterator[tuple[str, Iterable[np.ndarray]]]:
    """What a stored tensor becomes, by name: streamed, where nothing but its name changes."""
    foreseen = _foreseen(weights, name)
    ((part, unchanged), *others) = names.parts(name, foreseen).items()
    if not others and unchanged is foreseen:
        yield part, masked_blocks(weights, mask, name)
        return
    for part, tensor in masked_parts(weights, mask, names, name).items():
        yield part, as_arrays(tensor)


def _foreseen(weights: TensorFile, name: str) -> torch.Tensor:
    """A tensor without contents."""
    spec = weights.spec(name)
    return torch.empty(spec.shape, dtype=getattr(torch, TORCH_NAMES[spec.dtype]), device="meta")
