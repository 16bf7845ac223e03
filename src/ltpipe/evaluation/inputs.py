"""The inputs of an evaluation, checked to belong together."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.filenames import TOKENIZER
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.checkpoints.prunable import Selection
from ltpipe.data.sequences import TokenSequences
from ltpipe.evaluation.metrics import Metrics
from ltpipe.pruning.foreign import read_mask_for
from ltpipe.pruning.masks import Mask
from ltpipe.pruning.solution import Solution, read_solution
from ltpipe.runtime.errors import MEND, DamagedFileError, UserError
from ltpipe.runtime.files import sha256_of


@dataclass(frozen=True)
class PerturbationSettings:
    """How weights are perturbed.

    Attributes:
        name: name of the perturbation.
        seed: seed of the noise; None for rounding.
        prunable: weights to perturb if there is no mask: those that a mask would cover.
    """

    name: str
    seed: int | None = None
    prunable: Selection = field(default_factory=Selection)


def read_sequences(path: Path, checkpoint: Checkpoint) -> tuple[TokenSequences, str]:
    """Read token sequences made with a checkpoint's tokenizer, and the SHA-256 of their file.

    Raises:
        UserError: they were made with another tokenizer.
    """
    data = TokenSequences.read(path)
    if data.tokenizer != checkpoint.manifest.files.get(TOKENIZER):
        raise UserError(
            f"{path}: not made with the tokenizer of {checkpoint.folder}; run the data stage with this tokenizer"
        )
    vocabulary = checkpoint.transformers_config().get_text_config().vocab_size
    if data.input_ids.size and (largest := int(data.input_ids.max())) >= vocabulary:
        raise DamagedFileError(f"{path}: contains token {largest}, but the vocabulary has {vocabulary}; {MEND}")
    return data, sha256_of(path)


@dataclass(frozen=True)
class Inputs:
    """The inputs of an evaluation, checked to belong together.

    `solution` has the values of the weights that the mask keeps, if a solver changed them. `protocol` and `bos` tell
    how a text became the sequences, `perturbed` names tensors, `measured_on` identifies checkpoint and sequences,
    `hashes` identifies all inputs in the metrics.
    """

    manifest: Manifest
    sequences: np.ndarray
    protocol: str
    bos: str
    mask: Mask | None
    solution: Solution | None
    perturbed: frozenset[str]
    baseline_loss: float | None
    measured_on: dict[str, str]
    hashes: dict[str, str]


def open_inputs(
    checkpoint: Checkpoint,
    sequences: Path,
    mask: Path | None,
    baseline: Path | None,
    perturbation: PerturbationSettings | None,
    solution: Path | None = None,
) -> Inputs:
    """Read and check the inputs of an evaluation; see `evaluate_checkpoint`.

    Raises:
        UserError: mask, baseline or sequences belong to another model or text, or one of them is missing.
    """
    manifest = checkpoint.manifest
    data, digest = read_sequences(sequences, checkpoint)
    measured_on = {"checkpoint": manifest.fingerprint, "sequences": digest}
    if (mask is None and perturbation is None) != (baseline is None):
        raise UserError(
            "a ticket, or a model with --perturbation, is measured against its dense model: "
            + ("give --mask and --baseline, or neither" if perturbation is None else "give --baseline")
        )
    pruning, solved, hashes = open_ticket(checkpoint, mask, solution)
    loss = None if baseline is None else _baseline_loss(baseline, measured_on)
    names = (pruning.bits if pruning else perturbation.prunable.names(manifest)) if perturbation else ()
    return Inputs(
        manifest, data.input_ids, data.protocol, data.bos, pruning, solved, frozenset(names), loss, measured_on,
        measured_on | hashes,
    )  # fmt: skip


def open_ticket(
    checkpoint: Checkpoint, mask: Path | None, solution: Path | None
) -> tuple[Mask | None, Solution | None, dict[str, str]]:
    """Return the mask of a ticket, the values of its weights, and their hashes; nothing for a dense model.

    Raises:
        UserError: mask or solution belong to another model or mask, or a mask that needs a solution has none.
    """
    if mask is None:
        return None, None, {}
    pruning = read_mask_for(mask, checkpoint.manifest)
    pruning.check_applied(mask, solution)
    if solution is None:
        return pruning, None, {"mask": sha256_of(mask)}
    solved = read_solution(solution, pruning, mask, checkpoint.manifest.tensors)
    return pruning, solved, {"mask": sha256_of(mask), "solution": sha256_of(solution)}


def _baseline_loss(path: Path, hashes: Mapping[str, str]) -> float:
    baseline = Metrics.read(path)
    if baseline.sparsity is not None or baseline.perturbation is not None:
        raise UserError(f"{path}: metrics of a ticket or a perturbed model; use those of the dense model as baseline")
    baseline.check_measured_on(hashes, str(path))
    return baseline.loss
