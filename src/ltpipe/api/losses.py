"""Loss and hits of one batch on a live model: in pieces for causal language models, as a whole for others."""

import inspect
from collections.abc import Callable, Mapping, Sequence
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
    assert text.labels is not None  # `as_text` gives them
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
    answer = Answer.of(model, batch, device)
    found = [_tally([entropy(*candidate)]) for candidate in answer.candidates]
    chosen = answer.closest([(totals.loss, totals.count) for totals in found])
    if chosen is not None:
        return found[chosen]
    return Totals(float(answer.own_loss(model).double()) * answer.count, answer.count, None)


def summed_loss(model: nn.Module, batch: Batch, device: torch.device) -> torch.Tensor:
    """The loss of a batch, summed over what `plain_totals` counts, float32 logits, with the graph to derive it by."""
    answer = Answer.of(model, batch, device)
    losses = [functional.cross_entropy(rows.float(), targets, reduction="sum") for rows, targets in answer.candidates]
    counts = [len(targets) for _, targets in answer.candidates]
    chosen = answer.closest([(float(loss.detach()), count) for loss, count in zip(losses, counts, strict=True)])
    return answer.own_loss(model).float() * answer.count if chosen is None else losses[chosen]


@dataclass(frozen=True)
class Answer:
    """What a model says of a batch.

    Attributes:
        own: the loss that it returns; None if it returns none.
        logits: [examples, …]; None if it returns none.
        candidates: ways to read logits and labels as [rows, classes] and [rows], ignored labels left out.
        count: labels that are not ignored; examples, where there are no labels.
        raw: whether it returns its logits as they are, with classes as the second dimension.
    """

    own: torch.Tensor | None
    logits: torch.Tensor | None
    candidates: list[tuple[torch.Tensor, torch.Tensor]]
    count: int
    raw: bool

    @classmethod
    def of(cls, model: nn.Module, batch: Batch, device: torch.device) -> "Answer":
        """Run a model on a batch."""
        placed = batch.to(device)
        labels = placed.labels
        handed = {"labels": labels} if labels is not None and not batch.args and _accepts_labels(model) else {}
        output = model(*placed.args, **placed.kwargs, **handed)
        raw = torch.is_tensor(output)
        logits = output if raw else _field(output, "logits")
        readings = [] if logits is None or labels is None else _candidates(logits, labels, raw)
        candidates = []
        for rows, targets in readings:
            kept = (targets != IGNORED).nonzero().squeeze(1)
            candidates.append((rows.index_select(0, kept), targets.index_select(0, kept)))
        count = batch.examples if labels is None else int((labels != IGNORED).sum())
        return cls(_field(output, "loss"), logits, candidates, count, raw)

    def closest(self, found: Sequence[tuple[float, int]]) -> int | None:
        """Which of several losses, summed over so many labels, is what the model says itself; None if none is.

        The closest, not the first that is close: labels that are shifted and labels that are not give a model that
        knows nothing nearly the same loss. A model that says nothing means the first.
        """
        if self.own is None or not found:
            return 0 if found else None
        own = float(self.own.detach())
        off = [abs(loss / count - own) if count else 0.0 for loss, count in found]
        best = min(range(len(off)), key=off.__getitem__)
        return best if off[best] <= _SAME * abs(own) or not found[best][1] else None

    def own_loss(self, model: nn.Module) -> torch.Tensor:
        """The loss that the model returns.

        Raises:
            UserError: it returns none.
        """
        if self.own is None:
            raise UserError(
                f"{type(model).__name__} returns no loss, and its output and the labels are not logits and integer "
                "classes; let the model return an output with .loss"
            )
        return self.own


def agrees(split: SplitModel, text: Batch, device: torch.device) -> bool:
    """Whether a model's own loss, on a few tokens, is the shifted cross-entropy that `causal_totals` computes."""
    ids = text.kwargs["input_ids"][:1, :8].to(device)
    hidden_states, output = split.whole(ids, labels=ids)
    theirs = float(output.loss)
    losses, _ = cross_entropy(split.logits(hidden_states[0, :-1]), ids[0, 1:].cpu())
    return abs(float(losses.mean()) - theirs) <= 1e-3 * abs(theirs)


def _labelled(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of [sequences, tokens] labels, where each counted one is predicted (flat position) and the label itself."""
    shifted = functional.pad(labels[:, 1:], (0, 1), value=IGNORED).reshape(-1)
    rows = (shifted != IGNORED).nonzero().squeeze(1)
    return rows, shifted[rows]


def _tally(parts: list[tuple[torch.Tensor, torch.Tensor]]) -> Totals:
    loss = sum(float(losses.detach().double().sum()) for losses, _ in parts)
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
