"""Tensors of a checkpoint that need no copy, because the source's own files contain the same bytes.

Most checkpoints are as their source has them: then the canonical `model.safetensors` contains no tensors but lists
where they are, each with its digest. What transformers fuses, splits or converts is stored.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ltpipe.checkpoints.contents import STORED_NAMES, chunks_of
from ltpipe.checkpoints.header import ELSEWHERE, TensorSpec, hexadecimal, read_header
from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.runtime.digest import digest
from ltpipe.runtime.errors import UserError

_FIRST = 1024
"""Elements that are compared first: enough to tell most tensors apart."""


@dataclass(frozen=True)
class Original:
    """A tensor in a source's file: the file, its length, the byte range in it, and the tensor's digest."""

    file: Path
    length: int
    begin: int
    end: int
    digest: str


class Originals:
    """The tensors in the safetensors files of a folder; files that cannot be read are none."""

    def __init__(self, folder: Path) -> None:
        self._places: dict[tuple[str, tuple[int, ...]], list[tuple[TensorFile, str]]] = {}
        self._lengths: dict[Path, int] = {}
        for path in sorted(folder.glob("*.safetensors")):
            with suppress(UserError):
                file = TensorFile(path)
                self._lengths[path] = path.stat().st_size
                for name, spec in file.specs.items():
                    if spec.file is None:
                        self._places.setdefault((spec.dtype, spec.shape), []).append((file, name))

    def find(self, tensor: torch.Tensor) -> Original | None:
        """Return a tensor of the same dtype, shape and bytes, and at a multiple of its element size."""
        for file, name in self._places.get((STORED_NAMES.get(tensor.dtype, ""), tuple(tensor.shape)), ()):
            array, spec = file.array(name), file.specs[name]
            if array.flags.aligned and _equal(array.reshape(-1), tensor):
                begin, end = file.start + spec.begin, file.start + spec.end
                return Original(file.path, self._lengths[file.path], begin, end, hexadecimal(digest(array)))
        return None


def as_metadata(found: Mapping[str, Original], tensors: Mapping[str, torch.Tensor], folder: Path) -> dict[str, str]:
    """Return the metadata of a file in `folder` that uses these originals of its tensors."""
    places: dict[str, dict] = {}
    for name, original in found.items():
        place = places.setdefault(_path_from(folder, original.file), {"bytes": original.length, "tensors": {}})
        place["tensors"][name] = {
            "dtype": STORED_NAMES[tensors[name].dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [original.begin, original.end],
            "digest": original.digest,
        }
    return {ELSEWHERE: json.dumps(places, ensure_ascii=False)} if places else {}


def stored_anew(folder: Path, wanted: Mapping[str, tuple[str, tuple[int, ...]]]) -> set[str]:
    """Return the names of tensors, name to dtype and shape, for which the files of a folder can have no original."""
    kinds = {(spec.dtype, spec.shape) for path in folder.glob("*.safetensors") for spec in _specs(path)}
    return {name for name, kind in wanted.items() if kind not in kinds}


def _specs(path: Path) -> list[TensorSpec]:
    with suppress(UserError):
        return list(read_header(path).specs.values())
    return []


def _equal(array: np.ndarray, tensor: torch.Tensor) -> bool:
    """Return whether a flat array has the bytes of a tensor."""
    position = 0
    first = next(chunks_of(tensor.reshape(-1)[:_FIRST]), array[:0])
    if not np.array_equal(array[:_FIRST].view(np.uint8), first.view(np.uint8)):
        return False
    for chunk in chunks_of(tensor):
        if not np.array_equal(array[position : position + chunk.size].view(np.uint8), chunk.view(np.uint8)):
            return False
        position += chunk.size
    return True


def _path_from(folder: Path, file: Path) -> str:
    """Return a file's path: relative if it is below the working folder, as a study and its models move together."""
    folder, file, here = folder.resolve(), file.resolve(), Path.cwd()
    return os.path.relpath(file, folder) if file.is_relative_to(here) and folder.is_relative_to(here) else str(file)
