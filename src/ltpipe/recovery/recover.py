"""The recover stage: trains a ticket with its mask held exactly, and writes its new values."""

import json
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.evaluation.inputs import open_ticket, read_sequences
from ltpipe.pruning.solution import Solution, write_recovered
from ltpipe.recovery.model import TrainedModel, frozen_model, trained_model
from ltpipe.recovery.record import RecoveryRecord
from ltpipe.recovery.settings import RecoverySettings
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.files import remove
from ltpipe.runtime.labels import recovered, recovery_of
from ltpipe.runtime.memory import PrivateMemory
from ltpipe.runtime.progress import counting
from ltpipe.runtime.provenance import provenance
from ltpipe.training.computing import TrainingCompute
from ltpipe.training.distillation import taught_loss
from ltpipe.training.examples import Examples
from ltpipe.training.live import Callback, LiveTraining
from ltpipe.training.loop import Loss, Trainer, batches, run
from ltpipe.training.run import resume_file, saved_state, saving
from ltpipe.training.state import TrainingState


@dataclass(frozen=True)
class Recovery:
    """A ticket, and how it is trained.

    Attributes:
        checkpoint: the model's checkpoint.
        mask: the ticket's mask.
        sequences: token sequences to train on, made with the checkpoint's tokenizer.
        settings: how to train.
        computing: device, precision and threads.
        solution: values of the ticket's weights, if a solver found them.
        save_every: steps between two resume files; does not change the result.
    """

    checkpoint: Checkpoint
    mask: Path
    sequences: Path
    settings: RecoverySettings
    computing: TrainingCompute = field(default_factory=TrainingCompute)
    solution: Path | None = None
    save_every: int = 1000

    def __post_init__(self) -> None:
        """Reject values out of range."""
        if self.save_every < 1:
            raise UserError(f"save_every: {self.save_every} is not allowed; use 1 step or more")


def recover(
    recovery: Recovery,
    output: Path,
    record: Path,
    model: str = "model",
    name: str = "recovery",
    code: str | None = None,
) -> RecoveryRecord:
    """Train a ticket, and write its new values and what that took. A killed recovery goes on where it was last saved.

    Args:
        recovery: the ticket, and how it is trained.
        output: solution file to write.
        record: record file to write.
        model: name of the model in the record.
        name: name of the recovery, which the ticket's criterion has from now on.
        code: digest of the code, for the provenance.

    Raises:
        UserError: mask, solution or sequences belong to another model, there are fewer sequences than a batch, the
            model has nothing that the mode trains, or the training diverges.
    """
    begun = time.perf_counter()
    checkpoint, settings, computing = recovery.checkpoint, recovery.settings, recovery.computing
    mask, solution, hashes = open_ticket(checkpoint, recovery.mask, recovery.solution)
    assert mask is not None  # a ticket has one
    data, digest = read_sequences(recovery.sequences, checkpoint)
    _check_names(recovery, output, record, name, solution)
    _check_length(data.input_ids.shape[1], checkpoint)
    if reason := checkpoint.manifest.walks.gradients:
        raise UserError(f"{checkpoint.manifest.architecture} cannot be trained: {reason}")
    if settings.batch_size % computing.processes:
        raise UserError(
            f"batch_size: {settings.batch_size} is not allowed; use a multiple of the {computing.processes} processes"
        )
    inputs = {"checkpoint": checkpoint.fingerprint, "sequences": digest, **hashes}
    said = {
        "inputs": inputs,
        "settings": asdict(settings),
        "computing": [computing.mixed_precision, computing.processes, computing.threads],
        "code": code,
    }
    resume, identity = resume_file(output), sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
    found = saved_state(resume, identity)
    computing.wait()  # nobody writes the file while another process still reads it
    with PrivateMemory() as private:
        ticket = trained_model(checkpoint, mask, solution, settings, computing.placed_on)
        ids = torch.from_numpy(data.input_ids.astype(np.int64))
        with counting(settings.steps, found.iteration if found else 0, "training", "step") as took:
            callbacks: list[Callback] = []
            if computing.is_first:
                callbacks = [lambda live: took(live.iteration), saving(resume, identity, recovery.save_every)]
            _train(ticket, Examples(ids, ids[:, 1:]), recovery, found, callbacks)
        if computing.is_first:
            _write(output, ticket, solution, recovered(mask.criterion, name), digest, settings)
    learned = RecoveryRecord(
        model=model,
        criterion=recovered(mask.criterion, name),
        scope=mask.scope,
        seed=mask.seed,
        sparsity=mask.sparsity.canonical,
        mode=settings.mode,
        tokens=settings.steps * settings.batch_size * ids.shape[1],
        steps=settings.steps,
        trained=ticket.trained,
        changed=sum(mask.kept.get(each, checkpoint.manifest.tensors[each].size) for each in ticket.names),
        threads=computing.threads,
        device=computing.placed_on.type,
        seconds=time.perf_counter() - begun,
        peak_host_private_bytes=private.peak,
        provenance=provenance(inputs, {**asdict(settings), **asdict(computing)}) | {"code": code},
    )
    if computing.is_first:
        learned.write(record)
        remove(resume)
    return learned


def _check_names(recovery: Recovery, output: Path, record: Path, name: str, solution: Solution | None) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise UserError(f"recovery: {name!r} is not a name; use letters, digits, '.', '_' and '-'")
    if solution is not None and recovery_of(solution.criterion):
        raise UserError(
            f"{recovery.solution}: weights that the recovery '{recovery_of(solution.criterion)}' trained; a recovery "
            "starts from a mask, or from the solution of a solver"
        )
    files = {recovery.mask, recovery.sequences, recovery.solution}
    if output == record or files & {output, record}:
        raise UserError(f"output: {output} is also another file of this recovery; give each a name of its own")


def _check_length(length: int, checkpoint: Checkpoint) -> None:
    text = checkpoint.transformers_config().get_text_config()
    most = getattr(text, "max_position_embeddings", None) or length
    if not 2 <= length <= most:
        raise UserError(
            f"sequence_length: {length} tokens are not allowed; {checkpoint.manifest.architecture} takes 2 to {most:,}"
        )


def next_token_loss(model: Any, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy of the next token, nats, from float32 logits; int64 inputs [sequences, tokens]."""
    return functional.cross_entropy(_logits(model, inputs), labels.flatten())


def taught_by(teacher: Any, settings: RecoverySettings) -> Loss:
    """Return the loss of learning from the dense model too."""

    def loss(model: Any, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            wanted = _logits(teacher, inputs)
        return taught_loss(_logits(model, inputs), wanted, labels.flatten(), settings.temperature, settings.soft)

    return loss


def in_micro_batches(size: int) -> Trainer:
    """Return a trainer whose batches go through the model in parts of at most `size` sequences; 0 means whole."""

    def trainer(live: LiveTraining, examples: Examples, loss: Loss, until: int) -> None:
        order = batches(len(examples), live.settings.batch_size, live.settings.seed, live.iteration)
        while live.iteration < until and not live.stopped:
            chosen = live.computing.part(next(order))
            live.begin()
            *parts, last = chosen.split(size or len(chosen))
            for part in parts:
                share = len(part) / len(chosen)
                live.computing.backward(share * loss(live.model, examples.inputs[part], examples.labels[part]))
            share = len(last) / len(chosen)
            live.step(share * loss(live.model, examples.inputs[last], examples.labels[last]))

    return trainer


def _logits(model: Any, inputs: torch.Tensor) -> torch.Tensor:
    """Return logits of every token but a sequence's first, float32 [labels, vocabulary]."""
    return model(input_ids=inputs, use_cache=False).logits[:, :-1].float().flatten(0, -2)


def _train(
    ticket: TrainedModel, examples: Examples, recovery: Recovery, found: TrainingState | None, callbacks: list[Callback]
) -> None:
    settings, computing = recovery.settings, recovery.computing
    model = ticket.model
    loss: Loss = next_token_loss
    if settings.soft:
        loss = taught_by(frozen_model(recovery.checkpoint, ticket.mask, computing.placed_on), settings)
    # The state that training starts from shares its tensors with the model, which would take the memory twice.
    own = TrainingState(dict(model.named_parameters()), dict(model.named_buffers()), {}, 0, ticket.masks)
    with computing.alone():
        live = LiveTraining(model, settings.training, found or own, computing, callbacks)
        run(live, examples, loss, settings.steps, in_micro_batches(settings.micro_batch))


def _write(
    output: Path,
    ticket: TrainedModel,
    solution: Solution | None,
    criterion: str,
    sequences: str,
    settings: RecoverySettings,
) -> None:
    """Write what was trained, and what a solver had found and was not trained."""
    kept: Mapping[str, np.ndarray] = solution.values if solution else {}
    trained = set(ticket.names)
    names = [name for name in ticket.tensors if name in trained or name in kept]
    write_recovered(
        output, ticket.mask, criterion, ticket.tensors, names,
        lambda name: ticket.values(name) if name in trained else kept[name], sequences, asdict(settings),
    )  # fmt: skip
