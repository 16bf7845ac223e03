"""Solutions: the values that a solver gave to the weights that its mask keeps, one file beside each of its masks."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ltpipe.checkpoints.header import STORAGE
from ltpipe.checkpoints.tensorfile import TensorFile, artefact
from ltpipe.checkpoints.tensorwriter import tensor_writer
from ltpipe.pruning.masks import Mask
from ltpipe.runtime.digest import digest
from ltpipe.runtime.errors import UserError

FORMAT = "1"
KIND = "solution"
ERRORS, _MASKS = "errors", "masks"
_OWN = (ERRORS, _MASKS)
"""Tensors that are no weights: relative errors of the outputs, float64 [weights, 2], and digests of the mask's bits."""

_MASK = ("checkpoint", "criterion", "scope", "sparsity")
"""Metadata that name the mask of a solution."""


@dataclass(frozen=True)
class Solution:
    """The values of a mask's kept weights, usually views of the mapped file.

    Attributes:
        values: kept values of the tensors that the solver changed, flat, in row-major order, in the checkpoint's dtype
            (bfloat16 as bit patterns); none if it changes no weight.
        errors: relative squared error of each tensor's outputs on the calibration text, tr(E G E^T) / tr(W G W^T), with
            the mask alone and with the new values.
        sequences: SHA-256 of the calibration sequences.
        options: the solver's options.
    """

    values: Mapping[str, np.ndarray]
    errors: Mapping[str, tuple[float, float]]
    sequences: str
    options: Mapping[str, Any]


def read_solution(path: Path, mask: Mask, where: Path) -> Solution:
    """Open a solution and check that it belongs to a mask, which was read from `where`.

    Raises:
        UserError: there is no such file, or it belongs to another mask.
        DamagedFileError: it is not a solution, or its contents do not fit the mask.
    """
    with artefact(path, KIND, FORMAT) as file:
        found = tuple(file.metadata[key] for key in _MASK)
        names = json.loads(file.metadata["names"])
        bits = [np.int64(np.uint64(digest(mask.bits[name]))) for name in names if name in mask.bits]
        if found != (mask.checkpoint, mask.criterion, mask.scope, mask.sparsity.text) or bits != list(
            file.array(_MASKS)
        ):
            raise UserError(
                f"{path}: solution of another mask than {where}; give the one that the solver wrote beside it"
            )
        values = {name: file.array(name) for name in file.specs if name not in _OWN}
        if any(array.shape != (mask.kept[name],) for name, array in values.items()):
            raise ValueError("not as many values as the mask keeps")
        return Solution(values, _errors(file), file.metadata["sequences"], json.loads(file.metadata["options"]))


@dataclass(frozen=True)
class SolutionErrors:
    """What a solution says of itself: its mask, and the errors of `Solution`, without its values."""

    checkpoint: str
    criterion: str
    scope: str
    sparsity: str
    errors: Mapping[str, tuple[float, float]]


def read_errors(path: Path) -> SolutionErrors:
    """Read the errors of a solution, wherever its mask is.

    Raises:
        UserError: there is no such file.
        DamagedFileError: it is not a solution, or damaged.
    """
    with artefact(path, KIND, FORMAT) as file:
        checkpoint, criterion, scope, sparsity = map(file.metadata.__getitem__, _MASK)
        return SolutionErrors(checkpoint, criterion, scope, sparsity, _errors(file))


def _errors(file: TensorFile) -> dict[str, tuple[float, float]]:
    names = json.loads(file.metadata["names"])
    return {name: tuple(pair) for name, pair in zip(names, file.array(ERRORS).tolist(), strict=True)}


@contextmanager
def solution_writer(
    path: Path, promised: Mask, dtypes: Mapping[str, str], sequences: str, options: Mapping[str, Any]
) -> Iterator[Callable[[str, np.ndarray, np.ndarray, tuple[float, float]], None]]:
    """Write a solution as its tensors become known.

    Args:
        path: the file, which appears once everything is written.
        promised: the mask without its bits.
        dtypes: safetensors dtype names of the tensors that the solver changes.
        sequences: SHA-256 of the calibration sequences.
        options: the solver's options.

    Yields:
        A function of a tensor's name, its mask's bits (packed), the values of its kept weights (flat, in the stored
        dtype, bfloat16 as bit patterns; not written if it is not in `dtypes`) and its errors. Call it once per tensor,
        in any order.
    """
    names = list(promised.shapes)
    layout: dict[str, tuple[str, tuple[int, ...]]] = {
        name: (dtype, (promised.kept[name],)) for name, dtype in dtypes.items()
    }
    layout |= {ERRORS: ("F64", (len(names), 2)), _MASKS: ("I64", (len(names),))}
    order = sorted(layout, key=lambda name: (-np.dtype(STORAGE[layout[name][0]]).itemsize, name.encode()))
    metadata = {
        "format": FORMAT,
        "kind": KIND,
        "criterion": promised.criterion,
        "scope": promised.scope,
        "sparsity": promised.sparsity.text,
        "checkpoint": promised.checkpoint,
        "sequences": sequences,
        "names": json.dumps(names),
        "options": json.dumps(dict(options), sort_keys=True),
    }
    errors, masks = np.zeros((len(names), 2)), np.zeros(len(names), np.int64)
    with tensor_writer(path, {name: layout[name] for name in order}, metadata) as write:

        def deliver(name: str, bits: np.ndarray, values: np.ndarray, error: tuple[float, float]) -> None:
            place = names.index(name)
            errors[place], masks[place] = error, np.int64(np.uint64(digest(bits)))
            if name in layout:
                write(name, [values])

        yield deliver
        write(ERRORS, [errors])
        write(_MASKS, [masks])
