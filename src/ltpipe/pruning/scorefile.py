"""Score files: scores from a separate stage, one float32 per weight, written once, for any sparsity and scope."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.checkpoints.tensorfile import TensorFile, artefact, in_chunks
from ltpipe.checkpoints.tensorwriter import tensor_writer
from ltpipe.pruning.scores import COPIED_CHUNK, WEIGHT_CRITERIA, RankKeys, Weights, float32_rank_keys, weight_keys
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
    """Write a score file: a safetensors file with one float32 tensor per name, in canonical (byte) order.

    Args:
        path: the file, which appears once everything is written.
        manifest: manifest of the scored checkpoint.
        names: names of the tensors.
        criterion: criterion of the scores.
        signed: whether they may be negative.
        details: further metadata of the file.
        options: the criterion's options, JSON-serialisable.

    Yields:
        A function of a tensor's name and its scores, float32. Call it once per tensor, in any order.

    Raises:
        UserError: a score is infinite or not a number, or negative although scores are unsigned.
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
    """Raise UserError if a score is infinite or not a number, or negative although scores are unsigned."""
    if not np.isfinite(scores).all():
        raise UserError(
            f"{criterion} of '{name}' is infinite or not a number; "
            "compute with precision float32, or check the checkpoint"
        )
    if not signed and scores.size and scores.min() < 0:
        raise UserError(f"{criterion} of '{name}' is negative; a criterion with signed scores must set `signed`")


class ScoreFile:
    """A memory-mapped score file.

    Attributes:
        criterion: criterion of the scores.
        signed: whether they may be negative.
        options: the criterion's options.
        checkpoint: fingerprint of the scored checkpoint.
        names: names of the scored tensors, in canonical order.

    Raises:
        UserError: there is no such file.
        DamagedFileError: it is not a score file, or it is damaged.
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
        """Raise UserError unless the scores belong to the checkpoint with this fingerprint."""
        if self.checkpoint != checkpoint:
            raise UserError(
                f"{self.path}: scores of another model (of checkpoint {self.checkpoint[:12]}, used on "
                f"{checkpoint[:12]}); run the score stage on this one"
            )

    def array(self, name: str) -> np.ndarray:
        """Return the scores of one tensor, float32, read-only."""
        return self._file.array(name)

    def keys(self, names: Sequence[str]) -> RankKeys:
        """Return the scores' rank keys; see `score_keys`.

        Raises:
            DamagedFileError: the file has no such tensor.
        """
        return score_keys(self._file, names, self.signed)


def score_keys(scores: Weights, names: Sequence[str], signed: bool) -> RankKeys:
    """Return 31-bit rank keys of float32 scores: unsigned scores are their own bit patterns, and order exactly.

    Signed scores give up the last bit of the mantissa for the sign: scores that differ only in that bit tie.
    """
    shapes = tuple(scores.spec(name).shape for name in names)
    if not signed:
        return float32_rank_keys(scores, names, shapes)

    def ordered(name: str) -> Iterator[np.ndarray]:
        for chunk in in_chunks(scores.array(name).reshape(-1), COPIED_CHUNK):
            yield ordered_bits(chunk) >> np.uint32(1)

    return RankKeys(tuple(names), shapes, 31, 1 << 31, ordered, signed=True)


def rank_keys(
    checkpoint: Checkpoint, criterion: str, seed: int | None, names: Sequence[str], scores: Path | None
) -> RankKeys:
    """Return rank keys of a checkpoint's weights: from their scores or, without scores, from the weights.

    Raises:
        UserError: the scores belong to another checkpoint or criterion, or are missing although the criterion needs
            them.
    """
    if scores is None:
        if criterion not in WEIGHT_CRITERIA:
            raise UserError(
                f"criterion '{criterion}' needs a score file; without one, use {', '.join(WEIGHT_CRITERIA)}"
            )
        return weight_keys(criterion, checkpoint.weights, names, seed)
    file = ScoreFile(scores)
    file.check_made_for(checkpoint.fingerprint)
    if file.criterion != criterion:
        raise UserError(f"{scores}: scores of criterion '{file.criterion}', expected '{criterion}'")
    return file.keys(names)


def ordered_bits(values: np.ndarray) -> np.ndarray:
    """Return uint32 that order like finite float32 `values`, including negative ones; both zeros are equal."""
    bits = (values + np.float32(0)).view(np.uint32)
    return np.where(bits >> np.uint32(31), ~bits, bits | np.uint32(1 << 31))
