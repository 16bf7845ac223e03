"""A ticket as a plain Hugging Face checkpoint: pruned weights are zeros."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.contents import STORED_NAMES
from ltpipe.checkpoints.header import TORCH_NAMES
from ltpipe.checkpoints.layout import CONFIG, WEIGHTS
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.checkpoints.tensorwriter import tensor_writer
from ltpipe.exporting.folder import Exported, copy_companions, origin
from ltpipe.exporting.masked import masked_array, masked_blocks
from ltpipe.pruning.foreign import read_mask_for
from ltpipe.pruning.masks import Mask
from ltpipe.runtime.files import atomic_folder
from ltpipe.runtime.jsonfiles import write_json
from ltpipe.runtime.progress import track
from ltpipe.streaming.skeleton import build_skeleton


class HubNames:
    """How transformers stores the tensors of a live model: names, fused tensors in parts, split tensors joined.

    It does what `save_pretrained` does to a whole model, but to as few tensors at a time as belong together.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._model: nn.Module = build_skeleton(checkpoint, torch.float32)
        self._manifest = checkpoint.manifest

    def parts(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the stored tensors for some live tensors, by name; the same objects if only a name changes."""
        from transformers.core_model_loading import revert_weight_conversion

        return revert_weight_conversion(self._model, dict(tensors))

    def groups(self, foreseen: Mapping[str, torch.Tensor]) -> list[tuple[str, ...]]:
        """Return the names of tensors that must be converted together, in order; most are alone.

        Tensors that cannot be converted alone, or that become the same tensor as others, are grouped by block.

        Args:
            foreseen: all tensors, without contents.
        """
        alone: dict[str, Collection[str]] = {}
        for name, tensor in foreseen.items():
            try:
                alone[name] = self.parts({name: tensor})
            except Exception:
                alone[name] = ()
        times = Counter(part for parts in alone.values() for part in parts)
        groups: dict[str, list[str]] = {}
        for name, parts in alone.items():
            together = not parts or any(times[part] > 1 for part in parts)
            groups.setdefault(self._manifest.block_of(name) or "" if together else name, []).append(name)
        return [tuple(group) for group in groups.values()]


def export_checkpoint(checkpoint: Checkpoint, mask_path: Path | None, output: Path) -> Exported:
    """Write a ticket, or the dense model, as a folder that plain `AutoModelForCausalLM.from_pretrained` loads.

    Tensors are streamed; only those that transformers stores in parts (fused experts) or joins are in memory, one at a
    time or one block's at a time.

    Args:
        checkpoint: the model's checkpoint.
        mask_path: mask made from it; None prunes nothing.
        output: folder to write; absent or empty.

    Raises:
        UserError: the mask belongs to another model, or the folder is not empty. Nothing is written then.
    """
    manifest = checkpoint.manifest
    mask = read_mask_for(mask_path, manifest) if mask_path else _nothing_pruned(manifest)
    weights, names = checkpoint.weights, HubNames(checkpoint)
    groups = names.groups(foreseen_tensors(weights))
    layout = {
        part: (STORED_NAMES[tensor.dtype], tuple(tensor.shape))
        for group in groups
        for part, tensor in names.parts({name: _foreseen(weights, name) for name in group}).items()
    }
    with atomic_folder(output) as place:
        with tensor_writer(place / WEIGHTS, layout, origin(mask)) as write:
            for group in track(groups, "exporting"):
                for part, chunks in _contents(weights, mask, names, group):
                    write(part, chunks)
        write_json(place / CONFIG, checkpoint.config)
        copy_companions(checkpoint, place)
    pruned = mask.total - mask.total_kept
    note = f"it does not shrink: {pruned:,} pruned weights are stored as zeros" if mask_path else "the dense model"
    return Exported(output, (manifest.parameters, manifest.parameters), (manifest.nbytes, manifest.nbytes), note)


def _nothing_pruned(manifest: Manifest) -> Mask:
    return Mask({}, {}, {}, criterion="none", scope="none", sparsity="0", seed=None, checkpoint=manifest.fingerprint)


def masked_parts(weights: TensorFile, mask: Mask, names: HubNames, group: Sequence[str]) -> dict[str, torch.Tensor]:
    """Return stored tensors with pruned weights set to zero, as transformers stores them: in memory, by name."""
    tensors = {}
    for name in group:
        tensor = torch.from_numpy(masked_array(weights, mask, name))
        tensors[name] = tensor.view(torch.bfloat16) if weights.spec(name).dtype == "BF16" else tensor
    return names.parts(tensors)


def foreseen_tensors(weights: TensorFile) -> dict[str, torch.Tensor]:
    """Return all stored tensors, without contents."""
    return {name: _foreseen(weights, name) for name in weights.specs}


def as_arrays(tensor: torch.Tensor) -> list[np.ndarray]:
    """Return the contents of a tensor in the form that `tensor_writer` takes."""
    bits = tensor.contiguous().view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor
    return [bits.numpy()]


def _contents(
    weights: TensorFile, mask: Mask, names: HubNames, group: Sequence[str]
) -> Iterator[tuple[str, Iterable[np.ndarray]]]:
    """Yield the exported tensors of a group by name; streamed if only a name changes."""
    foreseen = {name: _foreseen(weights, name) for name in group}
    ((part, unchanged), *others) = names.parts(foreseen).items()
    if not others and unchanged is foreseen[group[0]]:
        yield part, masked_blocks(weights, mask, group[0])
        return
    for part, tensor in masked_parts(weights, mask, names, group).items():
        yield part, as_arrays(tensor)


def _foreseen(weights: TensorFile, name: str) -> torch.Tensor:
    """Return a tensor without contents."""
    spec = weights.spec(name)
    return torch.empty(spec.shape, dtype=getattr(torch, TORCH_NAMES[spec.dtype]), device="meta")
