"""Loss and correct predictions of one batch: in pieces for causal language models, as a whole for others."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
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
"""The label of a position that is not predicted."""

_MICRO_BATCH_TOKENS = 1024
_CHOSEN_HERE = {"use_cache", "return_dict"}
_LOGITS = 1 << 23  # that exist at the same time: 32 MiB in float32, of which the loss needs a copy
_SAME = 0.02  # relative; bfloat16 rounding stays below, another way to average exceeds it

CrossEntropy = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""Maps logits [rows, classes] and targets [rows] to losses and hits, [rows] each, on the CPU."""


@dataclass(frozen=True)
class Totals:
    """The sums over a batch.

    Attributes:
        loss: loss summed over labels, float64.
        count: number of labels that are not ignored, or of examples if there are no labels.
        correct: number of labels predicted correctly by the most likely class; None if unknown.
    """

    loss: float
    count: int
    correct: int | None


def native_cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute `ltpipe.evaluation.loss.cross_entropy` in the logits' own dtype."""
    targets = targets.to(logits.device)
    losses = functional.cross_entropy(logits, targets, reduction="none")
    return losses.cpu(), (logits.argmax(-1) == targets).cpu()


def micro_batches(text: Batch) -> Iterator[Batch]:
    """Yield about a thousand tokens of a batch of texts at a time, at least one sequence."""
    sequences, length = text.kwargs["input_ids"].shape
    size = max(1, _MICRO_BATCH_TOKENS // length)
    for start in range(0, sequences, size):
        yield text.part(start, start + size)


def backbone_output(split: SplitModel, micro_batch: Batch, device: torch.device) -> Any:
    """Return the output of a model's backbone for one micro-batch."""
    inputs = micro_batch.to(device).kwargs
    return split.backbone(**{name: inputs[name] for name in inputs.keys() - _CHOSEN_HERE})


def agrees(split: SplitModel, output: Any, text: Batch) -> bool:
    """Return whether a model's own loss on a few tokens equals the shifted cross-entropy of `causal_totals`.

    Args:
        split: the model.
        output: of its backbone, for the text.
        text: the texts.
    """
    hidden_states = output.last_hidden_state[:1, :8]
    ids = text.kwargs["input_ids"][:1, :8]
    theirs = float(split.head(output, hidden_states, labels=ids.to(hidden_states.device)).loss)
    losses, _ = cross_entropy(split.logits(hidden_states[0, :-1]), ids[0, 1:])
    return abs(float(losses.mean()) - theirs) <= 1e-3 * abs(theirs)


def causal_totals(
    split: SplitModel,
    text: Batch,
    device: torch.device,
    entropy: CrossEntropy,
    first: torch.Tensor | None = None,
) -> Totals:
    """Sum the next-token losses of a batch of texts as transformers defines them: label t is predicted from before t.

    One micro-batch goes through the model at a time, with eight million logits of its labels; nothing else is on the
    device.

    Args:
        split: the model.
        text: the texts, with labels.
        device: the model's.
        entropy: gives losses and hits.
        first: the hidden states of the first micro-batch, if they are known.
    """
    at_once = max(1, _LOGITS // split.vocabulary)
    parts = []
    for micro_batch in micro_batches(text):
        assert micro_batch.labels is not None  # `as_text` sets them
        rows, targets = _labelled(micro_batch.labels)
        if len(rows):
            hidden_states = backbone_output(split, micro_batch, device).last_hidden_state if first is None else first
            flat = hidden_states.reshape(-1, hidden_states.shape[-1])
            for chunk, wanted in zip(rows.split(at_once), targets.split(at_once), strict=True):
                parts.append(entropy(split.logits(flat.index_select(0, chunk.to(flat.device))), wanted))
            del hidden_states, flat  # free them before the next ones are computed
        first = None
    return _tally(parts)


def plain_totals(model: nn.Module, batch: Batch, device: torch.device, entropy: CrossEntropy) -> Totals:
    """Sum the loss of a batch from one plain forward pass.

    A model that returns a `loss` defines it. If that loss is the mean cross-entropy of the logits, with labels as they
    are or shifted by one, it is recomputed from the logits, in the chosen arithmetic and with the right weight.
    Otherwise it is multiplied by the number of labels, or of examples.

    Raises:
        UserError: the model returns neither a loss nor logits that fit integer labels.
    """
    answer = Answer.of(model, batch, device)
    found = [_tally([entropy(*candidate)]) for candidate in answer.candidates]
    chosen = answer.closest([(totals.loss, totals.count) for totals in found])
    if chosen is not None:
        return found[chosen]
    return Totals(float(answer.own_loss(model).double()) * answer.count, answer.count, None)


def summed_loss(model: nn.Module, batch: Batch, device: torch.device) -> torch.Tensor:
    """Return the differentiable loss of a batch, summed over what `plain_totals` counts, from float32 logits."""
    answer = Answer.of(model, batch, device)
    losses = [functional.cross_entropy(rows.float(), targets, reduction="sum") for rows, targets in answer.candidates]
    counts = [len(targets) for _, targets in answer.candidates]
    chosen = answer.closest([(float(loss.detach()), count) for loss, count in zip(losses, counts, strict=True)])
    return answer.own_loss(model).float() * answer.count if chosen is None else losses[chosen]


@dataclass(frozen=True)
class Answer:
    """A model's output for a batch.

    Attributes:
        own: the loss the model returns, or None.
        logits: [examples, …], or None if the model returns none.
        candidates: ways to read logits and labels as [rows, classes] and [rows], without ignored labels.
        count: number of labels that are not ignored, or of examples if there are no labels.
        raw: whether the model returns a plain tensor of logits, with classes as the second dimension.
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
        """Return which of several (summed loss, label count) pairs matches the model's own loss; None if none does.

        Picks the closest match, not the first one that is close: an untrained model has nearly the same loss with
        shifted and unshifted labels. If the model returns no loss, picks the first.
        """
        if self.own is None or not found:
            return 0 if found else None
        own = float(self.own.detach())
        off = [abs(loss / count - own) if count else 0.0 for loss, count in found]
        best = min(range(len(off)), key=off.__getitem__)
        return best if off[best] <= _SAME * abs(own) or not found[best][1] else None

    def own_loss(self, model: nn.Module) -> torch.Tensor:
        """Return the model's own loss.

        Raises:
            UserError: the model returns no loss.
        """
        if self.own is None:
            raise UserError(
                f"{type(model).__name__} returns no loss, and its output and the labels are not logits and integer "
                "classes; make the model return an output with .loss"
            )
        return self.own


def _labelled(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return, for labels [sequences, tokens], the flat positions that predict a counted label, and those labels."""
    shifted = functional.pad(labels[:, 1:], (0, 1), value=IGNORED).reshape(-1)
    rows = (shifted != IGNORED).nonzero().squeeze(1)
    return rows, shifted[rows]


def _tally(parts: list[tuple[torch.Tensor, torch.Tensor]]) -> Totals:
    loss = sum(float(losses.detach().double().sum()) for losses, _ in parts)
    return Totals(loss, sum(len(losses) for losses, _ in parts), sum(int(hits.sum()) for _, hits in parts))


def _candidates(logits: torch.Tensor, labels: torch.Tensor, raw: bool) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return ways to read logits and labels as [rows, classes] and [rows]: unshifted, and shifted by one.

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
