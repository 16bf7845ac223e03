"""Scores that a stage of their own computed: one float32 a weight, written once, ranked for any sparsity and scope."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.checkpoints.tensorfile import TensorFile, artefact
from ltpipe.checkpoints.tensorwriter import tensor_writer
from ltpipe.pruning.scores import COPIED_BLOCK, RankKeys, Weights, criterion_named, float32_rank_keys
from ltpipe.runtime.errors import UserError

FORMAT = "3"


@contextmanager
def score_writer(
    path: Path,
    manifest: Manifest,
    names: Sequence[str],
    criterion: str,
    signed: bool,
    details: Mapping[str, str],
    options: Mapping[str, Any] = MappingProxyType({}),
) -> Iterator[Callable[[str, np.ndarray], None]]:
    """Write a score file: a safetensors file with one float32 tensor for each name, in canonical (byte) order.

    Args:
        path: of the file; it is there when all is written.
        manifest: of the checkpoint that is scored.
        names: of the tensors.
        criterion: what the scores are.
        signed: whether they may be negative.
        details: what else the file is to say about itself.
        options: of the criterion, that JSON can hold.

    Yields:
        Function of a tensor's name and its scores, float32; in any order, each tensor once.

    Raises:
        UserError: a score is infinite or not a number, or negative where none may be.
    """
    metadata = {
        **details,
        "format": FORMAT,
        "kind": "set of scores",
        "criterion": criterion,
        "signed": str(signed).lower(),
        "options": json.dumps(dict(options), sort_keys=True),
        "checkpoint": manifest.fingerprint,
    }
    layout = {name: ("F32", tuple(manifest.tensors[name].shape)) for name in sorted(names, key=str.encode)}
    with tensor_writer(path, layout, metadata) as write:

        def deliver(name: str, scores: np.ndarray) -> None:
            check_scores(criterion, name, scores, signed)
            write(name, [scores.astype(np.float32, copy=False)])

        yield deliver


def check_scores(criterion: str, name: str, scores: np.ndarray, signed: bool) -> None:
    """Raise UserError where a score is infinite or not a number, or negative where none may be."""
    if not np.isfinite(scores).all():
        raise UserError(
            f"{criterion} of '{name}' is infinite or not a number; "
            "compute with precision float32, or check the checkpoint"
        )
    if not signed and scores.size and scores.min() < 0:
        raise UserError(f"{criterion} of '{name}' is negative; a criterion with signed scores must set `signed`")


class ScoreFile:
    """A score file, mapped.

    Attributes:
        criterion: what the scores are.
        signed: whether they may be negative.
        options: of the criterion.
        checkpoint: fingerprint of the checkpoint that was scored.
        names: of the scored tensors, in canonical order.

    Raises:
        UserError: there is no such file.
        DamagedFileError: it is something else.
    """

    def __init__(self, path: Path) -> None:
        with artefact(path, "set of scores", FORMAT) as file:
            self.path = path
            self.criterion = file.metadata["criterion"]
            self.signed = {"true": True, "false": False}[file.metadata["signed"]]
            self.options: Mapping[str, Any] = json.loads(file.metadata["options"])
            self.checkpoint = file.metadata["checkpoint"]
            self.names = tuple(file.specs)
            if any(spec.dtype != "F32" for spec in file.specs.values()):
                raise ValueError("scores that are not F32")
        self._file: TensorFile = file

    def check_made_for(self, checkpoint: str) -> None:
        """Raise UserError unless the scores are of the checkpoint with this fingerprint."""
        if self.checkpoint != checkpoint:
            raise UserError(
                f"{self.path}: scores of another model (of checkpoint {self.checkpoint[:12]}, used on "
                f"{checkpoint[:12]}); run the score stage on this one"
            )

    def array(self, name: str) -> np.ndarray:
        """Scores of one tensor, float32, read-only."""
        return self._file.array(name)

    def keys(self, names: Sequence[str]) -> RankKeys:
        """Their rank keys; see `score_keys`.

        Raises:
            DamagedFileError: the file holds no such tensor.
        """
        return score_keys(self._file, names, self.signed)


def score_keys(scores: Weights, names: Sequence[str], signed: bool) -> RankKeys:
    """Rank keys of 31 bits of float32 scores: those without sign are their own bit patterns, and order exactly.

    Signed scores give up the last bit of their mantissa for the sign: scores that differ in no other tie.
    """
    shapes = tuple(scores.spec(name).shape for name in names)
    if not signed:
        return float32_rank_keys(scores, names, shapes)

    def ordered(name: str) -> Iterator[np.ndarray]:
        flat = scores.array(name).reshape(-1)
        for start in range(0, flat.size, COPIED_BLOCK):
            yield ordered_bits(flat[start : start + COPIED_BLOCK]) >> np.uint32(1)

    return RankKeys(tuple(names), shapes, 31, 1 << 31, ordered, signed=True)


def rank_keys(
    checkpoint: Checkpoint, criterion: str, seed: int | None, names: Sequence[str], scores: Path | None
) -> RankKeys:
    """Rank keys of weights of a checkpoint: from their scores, or from the weights where there are none.

    Raises:
        UserError: the scores are of another checkpoint or criterion, or the criterion cannot do without.
    """
    if scores is None:
        return criterion_named(criterion).keys(checkpoint.weights, names, seed)
    file = ScoreFile(scores)
    file.check_made_for(checkpoint.fingerprint)
    if file.criterion != criterion:
        raise UserError(f"{scores}: scores of criterion '{file.criterion}', expected '{criterion}'")
    return file.keys(names)


def ordered_bits(values: np.ndarray) -> np.ndarray:
    """uint32 that order like finite float32 `values`, negative ones included; both zeros are one."""
    bits = (values + np.float32(0)).view(np.uint32)
    return np.where(bits >> np.uint32(31), ~bits, bits | np.uint32(1 << 31))
