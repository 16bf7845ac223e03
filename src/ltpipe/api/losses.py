"""Loss and hits of one batch on a live model: in pieces for causal language models, as a whole for others."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ltpipe.api.batches import Batch
from ltpipe.evaluation.loss import cross_entropy
from ltpipe.runtime.errors import UserError
from ltpipe.streaming.split import SplitModel

IGNORED = -100
"""A label that says that nothing is to be predicted here."""

_MICRO_BATCH_TOKENS = 1024
_CHUNK = 64  # labels whose logits exist at the same time
_SAME = 0.02  # relative; what bfloat16 loses is below, and another way to count is above

CrossEntropy = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""Logits [rows, classes] and targets [rows] to losses and hits, [rows] each, on the CPU."""


@dataclass(frozen=True)
class Totals:
    """What a batch adds up to.

    Attributes:
        loss: summed over labels, float64.
        count: labels that are not ignored; examples, where there are no labels to count.
        correct: labels that the most likely class was right on; None where that cannot be said.
    """

    loss: float
    count: int
    correct: int | None


def native_cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """As `ltpipe.evaluation.loss.cross_entropy`, but in the logits' own dtype."""
    targets = targets.to(logits.device)
    losses = functional.cross_entropy(logits, targets, reduction="none")
    return losses.cpu(), (logits.argmax(-1) == targets).cpu()


def causal_totals(split: SplitModel, text: Batch, device: torch.device, entropy: CrossEntropy) -> Totals:
    """Next-token losses of a batch of texts, as transformers defines them: label t is predicted from before t.

    About a thousand tokens go through the model together, and logits exist for 64 of their labels; only those are on
    the device.
    """
    sequences, length = text.kwargs["input_ids"].shape
    micro_batch = max(1, _MICRO_BATCH_TOKENS // length)
    parts = []
    for start in range(0, sequences, micro_batch):
        rows, targets = _labelled(text.labels[start : start + micro_batch])
        if not len(rows):
            continue
        inputs = text.sequences(start, start + micro_batch)
        inputs = {name: value.to(device) if torch.is_tensor(value) else value for name, value in inputs.items()}
        hidden_states = split.hidden_states(**inputs)
        flat = hidden_states.reshape(-1, hidden_states.shape[-1])
        for chunk, wanted in zip(rows.split(_CHUNK), targets.split(_CHUNK), strict=True):
            parts.append(entropy(split.logits(flat.index_select(0, chunk.to(flat.device))), wanted))
        del hidden_states, flat  # or they would still be there while the next ones are made
    return _tally(parts)


def plain_totals(model: nn.Module, batch: Batch, device: torch.device, entropy: CrossEntropy) -> Totals:
    """Loss of a batch from one plain forward.

    A model that returns a `loss` decides what it is. Where that is the mean cross-entropy of its logits, as it is or
    with labels shifted by one, it is computed again from them, in the arithmetic asked for and with the right weight;
    otherwise it counts as often as the batch has labels, or examples.

    Raises:
        UserError: there is neither a loss nor logits and integer labels that fit them.
    """
    placed = batch.to(device)
    labels = placed.labels
    handed = {"labels": labels} if labels is not None and not batch.args and _accepts_labels(model) else {}
    output = model(*placed.args, **placed.kwargs, **handed)
    own, logits = _field(output, "loss"), _field(output, "logits")
    if torch.is_tensor(output):
        logits = output
    candidates = [] if logits is None or labels is None else _candidates(logits, labels, torch.is_tensor(output))
    for rows, targets in candidates:
        kept = (targets != IGNORED).nonzero().squeeze(1)
        totals = _tally([entropy(rows.index_select(0, kept), targets.index_select(0, kept))])
        if (
            own is None
            or not totals.count
            or abs(totals.loss / max(totals.count, 1) - float(own)) <= _SAME * abs(float(own))
        ):
            return totals
    if own is None:
        raise UserError(
            f"{type(model).__name__} returns no loss, and its output and the labels are not logits and integer "
            "classes; let the model return an output with .loss"
        )
    inputs = [value for value in [*batch.args, *batch.kwargs.values()] if torch.is_tensor(value) and value.dim()]
    count = len(inputs[0]) if labels is None else int((labels != IGNORED).sum())
    return Totals(float(own.double()) * count, count, None)


def agrees(split: SplitModel, text: Batch, device: torch.device) -> bool:
    """Whether a model's own loss, on a few tokens, is the shifted cross-entropy that `causal_totals` computes."""
    ids = text.kwargs["input_ids"][:1, :8].to(device)
    theirs = float(split.model(input_ids=ids, labels=ids).loss)
    hidden_states = split.hidden_states(ids)
    losses, _ = cross_entropy(split.logits(hidden_states[0, :-1]), ids[0, 1:].cpu())
    return abs(float(losses.mean()) - theirs) <= 1e-3 * abs(theirs)


def _labelled(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of [sequences, tokens] labels, where each counted one is predicted (flat position) and the label itself."""
    shifted = functional.pad(labels[:, 1:], (0, 1), value=IGNORED).reshape(-1)
    rows = (shifted != IGNORED).nonzero().squeeze(1)
    return rows, shifted[rows]


def _tally(parts: list[tuple[torch.Tensor, torch.Tensor]]) -> Totals:
    loss = sum(float(losses.double().sum()) for losses, _ in parts)
    return Totals(loss, sum(len(losses) for losses, _ in parts), sum(int(hits.sum()) for _, hits in parts))


def _candidates(logits: torch.Tensor, labels: torch.Tensor, raw: bool) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Ways to read logits and labels as [rows, classes] and [rows]: as they are, and shifted by one.

    Classes are the last dimension in transformers, the second in PyTorch (`raw`).
    """
    if labels.is_floating_point() or logits.dim() < 2:
        return []
    second_fits = labels.shape == (logits.shape[0], *logits.shape[2:])
    last_fits = labels.shape == logits.shape[:-1]
    if second_fits and (raw or not last_fits):
        logits = logits.movedim(1, -1)
    elif not last_fits:
        return []
    found = [(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1))]
    if not raw and labels.dim() == 2:
        found.append((logits[:, :-1].reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1)))
    return found


def _field(output: Any, name: str) -> torch.Tensor | None:
    return output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)


def _accepts_labels(model: nn.Module) -> bool:
    parameters = inspect.signature(model.forward).parameters
    return "labels" in parameters or any(each.kind is each.VAR_KEYWORD for each in parameters.values())
