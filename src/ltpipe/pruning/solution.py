"""Solutions: new values of a ticket's weights, found by a solver with its mask or trained by a recovery."""

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ltpipe.checkpoints.header import STORAGE
from ltpipe.checkpoints.manifest import TensorEntry
from ltpipe.checkpoints.tensorfile import TensorFile, artefact
from ltpipe.checkpoints.tensorwriter import tensor_writer
from ltpipe.pruning.masks import Mask
from ltpipe.runtime.digest import digest
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.labels import pruned_by

FORMAT = "2"
KIND = "solution"
ERRORS, MASKS = "errors", "masks"
_OWN = (ERRORS, MASKS)
"""Tensors that are no weights: relative errors of the outputs, float64 [weights, 2], and digests of the mask's bits."""

_MASK = ("checkpoint", "criterion", "scope", "sparsity")
"""Metadata that name the mask of a solution; the criterion is a label with the recovery, if there was one."""


@dataclass(frozen=True)
class Solution:
    """New values of a ticket's weights, usually views of the mapped file.

    Attributes:
        criterion: label of the ticket's criterion, with the recovery that trained it, if one did.
        values: by tensor, in the checkpoint's dtype (bfloat16 as bit patterns): of one that the mask covers, those that
            it keeps, flat, in row-major order; of another that was trained, all. Tensors that are not here have the
            checkpoint's values.
        errors: relative squared error of each tensor's outputs on the calibration text, tr(E G E^T) / tr(W G W^T), with
            the mask alone and with the new values; none after a recovery.
        sequences: SHA-256 of the calibration or training sequences.
        options: options of the solver or recovery.
    """

    criterion: str
    values: Mapping[str, np.ndarray]
    errors: Mapping[str, tuple[float, float]]
    sequences: str
    options: Mapping[str, Any]

    def flat(self, name: str, mask: Mask) -> np.ndarray:
        """Return a tensor in `values` as stored, flat, with zeros where the mask prunes."""
        values = self.values[name]
        from ltpipe.pruning.masking_kernels import scattered  # numba, which readers of errors do not need

        if name not in mask.bits:
            return values.reshape(-1)
        return scattered(values, mask.bits[name], prod(mask.shapes[name]))


def criterion_of(mask: Mask | None, solution: Solution | None) -> str | None:
    """Return the label of a ticket's criterion, with the recovery that trained it; None for a dense model."""
    return solution.criterion if solution else mask.criterion if mask else None


def read_solution(path: Path, mask: Mask, where: Path, tensors: Mapping[str, TensorEntry]) -> Solution:
    """Open a solution and check that it belongs to a mask, which was read from `where`.

    Args:
        path: the solution.
        mask: the mask.
        where: path of the mask, for messages.
        tensors: the tensors of the checkpoint.

    Raises:
        UserError: there is no such file, or it belongs to another mask.
        DamagedFileError: it is not a solution, or its contents do not fit the mask.
    """
    with artefact(path, KIND, FORMAT) as file:
        checkpoint, criterion, *found = map(file.metadata.__getitem__, _MASK)
        names = json.loads(file.metadata["names"])
        bits = [np.int64(np.uint64(digest(mask.bits[name]))) for name in names if name in mask.bits]
        wanted = [mask.checkpoint, mask.criterion, mask.scope, mask.sparsity.text]
        fits = [checkpoint, pruned_by(criterion), *found] == wanted and bits == list(file.array(MASKS))
        values = {name: file.array(name) for name in file.specs if name not in _OWN}
        for name, array in values.items() if fits else ():
            wanted_shape = (mask.kept[name],) if name in mask.kept else tensors[name].shape
            if array.shape != wanted_shape or file.spec(name).dtype != tensors[name].dtype:
                raise ValueError(f"{name}: not the values that the mask keeps")
        options = json.loads(file.metadata["options"])
        solution = Solution(criterion, values, _errors(file), file.metadata["sequences"], options)
    if not fits:  # which is no damage
        raise UserError(f"{path}: solution of another mask than {where}; give the one that was made for it")
    return solution


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
    if ERRORS not in file.specs:
        return {}
    names = json.loads(file.metadata["names"])
    return {name: tuple(pair) for name, pair in zip(names, file.array(ERRORS).tolist(), strict=True)}


@contextmanager
def solution_writer(
    path: Path, promised: Mask, dtypes: Mapping[str, str], sequences: str, options: Mapping[str, Any]
) -> Iterator[Callable[[str, np.ndarray, np.ndarray, tuple[float, float]], None]]:
    """Write a solver's solution as its tensors become known.

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
    layout |= {ERRORS: ("F64", (len(names), 2)), MASKS: ("I64", (len(names),))}
    errors, masks = np.zeros((len(names), 2)), np.zeros(len(names), np.int64)
    metadata = _metadata(promised, promised.criterion, sequences, options)
    with tensor_writer(path, _in_order(layout), metadata) as write:

        def deliver(name: str, bits: np.ndarray, values: np.ndarray, error: tuple[float, float]) -> None:
            place = names.index(name)
            errors[place], masks[place] = error, np.int64(np.uint64(digest(bits)))
            if name in layout:
                write(name, [values])

        yield deliver
        write(ERRORS, [errors])
        write(MASKS, [masks])


def write_recovered(
    path: Path,
    mask: Mask,
    criterion: str,
    tensors: Mapping[str, TensorEntry],
    names: Collection[str],
    values: Callable[[str], np.ndarray],
    sequences: str,
    options: Mapping[str, Any],
) -> None:
    """Write the solution of a recovery, tensor by tensor.

    Args:
        path: the file.
        mask: the ticket's mask.
        criterion: label of the ticket's criterion, with the recovery.
        tensors: the tensors of the checkpoint.
        names: those that were trained.
        values: returns a tensor's values as `Solution` has them.
        sequences: SHA-256 of the training sequences.
        options: the recovery's options.
    """
    layout = {
        name: (tensors[name].dtype, (mask.kept[name],) if name in mask.kept else tensors[name].shape) for name in names
    }
    layout[MASKS] = ("I64", (len(mask.shapes),))
    with tensor_writer(path, _in_order(layout), _metadata(mask, criterion, sequences, options)) as write:
        for name in names:
            write(name, [values(name)])
        write(MASKS, [np.array([np.int64(np.uint64(digest(mask.bits[name]))) for name in mask.shapes], np.int64)])


def _metadata(mask: Mask, criterion: str, sequences: str, options: Mapping[str, Any]) -> dict[str, str]:
    return {
        "format": FORMAT,
        "kind": KIND,
        "criterion": criterion,
        "scope": mask.scope,
        "sparsity": mask.sparsity.text,
        "checkpoint": mask.checkpoint,
        "sequences": sequences,
        "names": json.dumps(list(mask.shapes)),
        "options": json.dumps(dict(options), sort_keys=True),
    }


def _in_order(layout: Mapping[str, tuple[str, tuple[int, ...]]]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Order tensors by the size of their elements, so that each is aligned."""
    order = sorted(layout, key=lambda name: (-np.dtype(STORAGE[layout[name][0]]).itemsize, name.encode()))
    return {name: layout[name] for name in order}
