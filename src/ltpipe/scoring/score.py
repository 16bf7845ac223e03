"""The score stage: one criterion's score of every prunable weight of a checkpoint."""

from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.checkpoints.prunable import Selection
from ltpipe.evaluation.computing import ComputeSettings, Computing, backing_off
from ltpipe.evaluation.inputs import read_sequences
from ltpipe.evaluation.plan import BatchSizes
from ltpipe.pruning.apply import fetch_from
from ltpipe.pruning.scorefile import score_writer
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.fake_device import Peak
from ltpipe.runtime.options import Given, as_given
from ltpipe.scoring.criterion import ActivationCriterion, Criterion, criterion_options, scored_criterion
from ltpipe.scoring.plan import ScorePlanner
from ltpipe.scoring.streamed import ChangingFetch, StreamedSubject
from ltpipe.streaming.model import CausalModel
from ltpipe.streaming.skeleton import build_skeleton, other_dtypes

_NO_DATA = np.zeros((1, 2), np.int32)  # a criterion without data needs a token to run the model on


def score_checkpoint(
    checkpoint: Checkpoint,
    criterion: str,
    output: Path,
    selection: Selection,
    sequences: Path | None,
    settings: ComputeSettings,
    options: Given = MappingProxyType({}),
) -> Peak:
    """Score the selected weights of a canonical checkpoint, and write the score file.

    Args:
        checkpoint: the model's checkpoint.
        criterion: name of a criterion with a score stage.
        output: safetensors file to write.
        selection: weights to score.
        sequences: calibration sequences made with the checkpoint's tokenizer, for a criterion that needs data.
        settings: how to compute; a criterion may require a precision or a micro-batch.
        options: the criterion's options; missing ones take their defaults.

    Returns:
        The planned peak of tensors on the device.

    Raises:
        UserError: the criterion is unknown, has no such option, cannot score a selected weight, or gives a score that
            is not finite; sequences are missing or made with another tokenizer; memory is too small.
    """
    rule = scored_criterion(criterion)
    chosen = criterion_options(criterion, options, criterion)
    manifest = checkpoint.manifest
    names = _in_blocks(selection.names(manifest), manifest, rule, criterion)
    input_ids, digest = _calibration(checkpoint, rule, criterion, sequences)
    here = Computing.of(settings, checkpoint, rule.precision)

    skeleton, kept = build_skeleton(checkpoint, here.dtype), here.kept(manifest)
    planner = ScorePlanner(skeleton, manifest, names, rule, here.dtype, here.accelerator, here.streamed, kept, chosen)
    count, length = input_ids.shape
    wanted = BatchSizes.generous(count, length, rule.batch or settings.micro_batch)
    sizes, planned = planner.fit(wanted, length, here.limit)

    file = checkpoint.weights
    weight = fetch_from(file, None, torch.device("cpu"), torch.float32)
    fetch = ChangingFetch(fetch_from(file, None, here.device, here.dtype, other_dtypes(skeleton, here.dtype)))
    details = {"precision": here.precision, "sequences": digest}

    def attempt(sizes: BatchSizes) -> None:
        skeleton = build_skeleton(checkpoint, here.dtype)
        model = CausalModel(skeleton, manifest, fetch, here.device, here.streamed, planner.division, here.shards)
        with score_writer(output, manifest, names, criterion, rule.signed, details, as_given(chosen)) as write:
            subject = StreamedSubject(model, fetch, names, input_ids, sizes, weight, output.parent, chosen)
            rule.score(subject, lambda name, scores: write(name, scores.numpy()))

    def smaller(sizes: BatchSizes) -> BatchSizes | None:
        less = sizes.backed_off() if rule.batch is None else None
        return None if less is None or less.super_batch < count else less

    backing_off(sizes, attempt, smaller)
    return planned


def _in_blocks(names: tuple[str, ...], manifest: Manifest, rule: type[Criterion], criterion: str) -> tuple[str, ...]:
    """Return the names if the criterion's walk reaches all of them: a backward walk covers one list of blocks only."""
    for name in names:
        block = manifest.block_of(name)
        if block is None:
            raise UserError(
                f"criterion '{criterion}' scores weights in blocks only, and '{name}' is outside; "
                "use the preset linear or exclude it"
            )
        if not manifest.in_blocks(name) and not issubclass(rule, ActivationCriterion):
            other = block.rpartition(".")[0]
            raise UserError(
                f"criterion '{criterion}' needs gradients, which go through the blocks of {manifest.blocks} only, but "
                f"{manifest.architecture} has others; exclude '{other}.*', or choose magnitude, random or wanda"
            )
    return names


def _calibration(
    checkpoint: Checkpoint, rule: type[Criterion], criterion: str, sequences: Path | None
) -> tuple[torch.Tensor, str]:
    """Return the sequences, int64, and the SHA-256 of their file."""
    if not rule.needs_data:
        return torch.from_numpy(_NO_DATA.astype(np.int64)), ""
    if sequences is None:
        raise UserError(f"criterion '{criterion}' needs calibration data: give --sequences")
    data, digest = read_sequences(sequences, checkpoint)
    return torch.from_numpy(data.input_ids.astype(np.int64)), digest
