"""A ticket as a plain Hugging Face checkpoint: pruned weights are zeros."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.contents import STORED_NAMES, chunks_of
from ltpipe.checkpoints.filenames import CONFIG, WEIGHTS
from ltpipe.checkpoints.header import TORCH_NAMES
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.checkpoints.tensorwriter import tensor_writer
from ltpipe.exporting.folder import Exported, copy_companions, provenance
from ltpipe.pruning.apply import as_torch
from ltpipe.pruning.foreign import read_mask_for
from ltpipe.pruning.masks import Mask, unpack_chunks
from ltpipe.pruning.solution import Solution, read_solution
from ltpipe.pruning.sparsity import Sparsity
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


def export_checkpoint(
    checkpoint: Checkpoint, mask_path: Path | None, output: Path, solution_path: Path | None = None
) -> Exported:
    """Write a ticket, or the dense model, as a folder that plain `AutoModelForCausalLM.from_pretrained` loads.

    Tensors are streamed; only those that transformers stores in parts (fused experts) or joins are in memory, one at a
    time or one block's at a time.

    Args:
        checkpoint: the model's checkpoint.
        mask_path: mask made from it; None prunes nothing.
        output: folder to write; absent or empty.
        solution_path: new values of the weights, if a solver or a recovery changed them.

    Raises:
        UserError: the mask belongs to another model, the solution to another mask, or the folder is not empty. Nothing
            is written then.
    """
    manifest = checkpoint.manifest
    mask, solution = _nothing_pruned(manifest), None
    if mask_path:
        mask = read_mask_for(mask_path, manifest)
        mask.check_applied(mask_path, solution_path)
        solution = read_solution(solution_path, mask, mask_path, manifest.tensors) if solution_path else None
    weights, names = checkpoint.weights, HubNames(checkpoint)
    groups = names.groups(_foreseen(weights, weights.specs))
    layout = {
        part: (STORED_NAMES[tensor.dtype], tuple(tensor.shape))
        for group in groups
        for part, tensor in names.parts(_foreseen(weights, group)).items()
    }
    with atomic_folder(output) as place:
        with tensor_writer(place / WEIGHTS, layout, provenance(mask, solution)) as write:
            for group in track(groups, "exporting"):
                for part, chunks in _contents(weights, mask, solution, names, group):
                    write(part, chunks)
        write_json(place / CONFIG, checkpoint.config)
        copy_companions(checkpoint, place)
    pruned = mask.total - mask.total_kept
    note = f"it does not shrink: {pruned:,} pruned weights are stored as zeros" if mask_path else "the dense model"
    return Exported(output, (manifest.parameters, manifest.parameters), (manifest.nbytes, manifest.nbytes), note)


def _nothing_pruned(manifest: Manifest) -> Mask:
    return Mask({}, {}, {}, "none", "none", Sparsity.of(0), None, manifest.fingerprint)


def _contents(
    weights: TensorFile, mask: Mask, solution: Solution | None, names: HubNames, group: Sequence[str]
) -> Iterator[tuple[str, Iterable[np.ndarray]]]:
    """Yield the exported tensors of a group by name, pruned weights set to zero; streamed if only a name changes."""
    foreseen = _foreseen(weights, group)
    ((part, unchanged), *others) = names.parts(foreseen).items()
    if not others and unchanged is foreseen[group[0]]:
        yield part, _masked(weights, mask, solution, group[0])
        return
    tensors = {}
    for name in group:
        spec = weights.spec(name)
        tensors[name] = as_torch(
            np.concatenate(list(_masked(weights, mask, solution, name))).reshape(spec.shape), spec.dtype
        )
    for part, tensor in names.parts(tensors).items():
        yield part, chunks_of(tensor)


def _masked(weights: TensorFile, mask: Mask, solution: Solution | None, name: str) -> Iterator[np.ndarray]:
    """Yield a tensor's values in row-major order, flat; bfloat16 as bit patterns, in which 0 is also zero."""
    if solution is not None and name in solution.values:
        yield solution.flat(name, mask)
        return
    flat = weights.array(name).reshape(-1)
    if name not in mask.bits:
        yield flat
        return
    start = 0
    for kept in unpack_chunks(mask.bits[name], flat.size):
        yield np.where(kept, flat[start : start + kept.size], flat.dtype.type(0))
        start += kept.size


def _foreseen(weights: TensorFile, names: Iterable[str]) -> dict[str, torch.Tensor]:
    """Return tensors without contents."""
    specs = {name: weights.spec(name) for name in names}
    return {
        name: torch.empty(spec.shape, dtype=getattr(torch, TORCH_NAMES[spec.dtype]), device="meta")
        for name, spec in specs.items()
    }
