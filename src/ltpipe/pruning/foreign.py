"""Reads masks in any form: ltpipe's, bool tensors, state dicts of `torch.nn.utils.prune`; all are safetensors files."""

import json
from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from math import prod
from pathlib import Path

import numpy as np

from ltpipe.checkpoints.header import STORAGE
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.pruning.masks import Mask, check_fits, count_kept, pack, read_mask
from ltpipe.pruning.sparsity import Sparsity
from ltpipe.runtime.errors import DamagedFileError, UserError
from ltpipe.runtime.files import check_file
from ltpipe.runtime.progress import track

UNKNOWN = "unknown"
"""The value of a mask's attributes that its file does not give."""

FORMS = (
    "use a mask file of ltpipe, a safetensors file of bool tensors by parameter name (True is kept), or a "
    "state dict of torch.nn.utils.prune (…weight_orig, …weight_mask)"
)
"""The accepted forms, for error messages."""

_MASK, _ORIGINAL = "_mask", "_orig"
_PICKLES = (b"PK\x03\x04", b"\x80")  # the first bytes of files from torch.save, and of any pickle


def read_any_mask(path: Path) -> Mask:
    """Read a mask in any form; attributes that the file does not give are `unknown`, and its checkpoint ''.

    Takes one bit of memory per weight.

    Raises:
        UserError: there is no such file, or it is not a mask. The message says what it is and what is accepted.
        DamagedFileError: it is a damaged mask file of ltpipe.
    """
    check_file(path)
    with path.open("rb") as opened:
        if opened.read(4).startswith(_PICKLES):
            raise UserError(
                f"{path}: a pickle, as torch.save writes it, which is never read because it may run code; save it with "
                f"safetensors.torch.save_file, or {FORMS}"
            )
    file = TensorFile(path)
    kind = file.metadata.get("kind")
    if kind == "mask":
        return read_mask(path)
    if kind is not None and file.has_digests:
        raise UserError(f"{path}: not a mask but a {kind} of ltpipe; {FORMS}")
    if not file.specs:
        raise UserError(f"{path}: has no tensors; {FORMS}")
    if pruned := _of_torch_prune(file):
        return _mask(file, {name: _kept(file, f"{name}{_MASK}") for name in pruned}, pruned)
    for name, spec in file.specs.items():
        if spec.dtype != "BOOL":
            raise UserError(f"{path}: not a mask: '{name}' is {spec.dtype}; {FORMS}")
    shapes = {name: spec.shape for name, spec in file.specs.items()}
    return _mask(file, {name: file.array(name) for name in shapes}, shapes)


def is_mask(file: TensorFile) -> bool:
    """Return whether a file that is not an ltpipe artefact can be read as a mask."""
    return bool(_of_torch_prune(file)) or {spec.dtype for spec in file.specs.values()} == {"BOOL"}


def read_mask_for(path: Path, manifest: Manifest) -> Mask:
    """Read a mask in any form, as a mask of a checkpoint.

    A mask that does not name the checkpoint it was made from is accepted if it only masks this checkpoint's tensors.

    Raises:
        UserError: it is not a mask, or it belongs to another model.
    """
    mask = read_any_mask(path)
    if not mask.checkpoint:
        return adopted(mask, manifest, str(path))
    check_fits(mask, manifest, path)
    return mask


def adopted(mask: Mask, manifest: Manifest, origin: str) -> Mask:
    """Return a mask as a mask of a checkpoint: with its stored names, in canonical order, and its fingerprint.

    Raises:
        UserError: a tensor is not a parameter of the checkpoint or has another shape, or two are one tied parameter.
    """
    names = {name: manifest.tied.get(name, name) for name in mask.bits}
    if len(set(names.values())) < len(names):
        twice = next(name for name, stored in names.items() if name != stored and stored in names)
        raise UserError(f"{origin}: '{twice}' and '{names[twice]}' are one tied parameter; give one mask for both")
    for name, stored in names.items():
        if problem := stranger(name, mask.shapes[name], stored, manifest):
            raise UserError(f"{origin}: {problem}")
    order = sorted(names, key=lambda name: names[name].encode())
    return replace(
        mask,
        bits={names[name]: mask.bits[name] for name in order},
        shapes={names[name]: mask.shapes[name] for name in order},
        kept={names[name]: mask.kept[name] for name in order},
        checkpoint=manifest.fingerprint,
    )


def stranger(name: str, shape: tuple[int, ...], stored: str, manifest: Manifest) -> str:
    """Return why a mask's tensor does not belong to a model; empty if it does."""
    entry = manifest.tensors.get(stored)
    if entry is None or entry.buffer:
        example = next((each for each, tensor in manifest.tensors.items() if not tensor.buffer), "")
        return f"'{name}' is not a parameter of {manifest.architecture}; names look like '{example}'"
    if entry.shape != shape:
        return f"'{name}' has shape {list(shape)}, but {list(entry.shape)} in {manifest.architecture}"
    return ""


def _of_torch_prune(file: TensorFile) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of the tensors that `torch.nn.utils.prune` has masked in a state dict; ignore others."""
    names = [name.removesuffix(_MASK) for name in file.specs if name.endswith(_MASK)]
    return {name: file.specs[name + _MASK].shape for name in names if name + _ORIGINAL in file.specs}


def _kept(file: TensorFile, name: str) -> np.ndarray:
    """Return a mask of ones and zeros as bools."""
    values = file.array(name)
    one = np.array(0x3F80 if file.specs[name].dtype == "BF16" else 1, STORAGE[file.specs[name].dtype])
    kept = values == one
    if not bool((kept | (values == 0)).all()):
        raise UserError(f"{file.path}: '{name}' contains values other than 0 and 1; {FORMS}")
    return kept


def _mask(file: TensorFile, arrays: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> Mask:
    names = sorted(shapes, key=str.encode)
    bits = {name: pack(arrays[name]) for name in track(names, "packing")}
    kept = {name: count_kept(packed) for name, packed in bits.items()}
    total = sum(prod(shape) for shape in shapes.values())
    said = file.metadata
    share = Decimal(repr(1 - sum(kept.values()) / total) if total else "0")
    try:
        seed = json.loads(said.get("seed", "null"))
        sparsity = Sparsity.of(said.get("sparsity", format(share.normalize(), "f")))
    except (UserError, json.JSONDecodeError) as error:
        raise DamagedFileError(f"{file.path}: seed or sparsity in its metadata is not a number ({error})") from None
    return Mask(
        bits,
        {name: tuple(shapes[name]) for name in names},
        kept,
        said.get("criterion", UNKNOWN),
        said.get("scope", UNKNOWN),
        sparsity,
        seed,
        said.get("checkpoint", ""),
    )
