"""Next-token losses in chunks: logits of [tokens, vocabulary] never exist for a whole batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from ltpipe.runtime.errors import UserError
from ltpipe.runtime.progress import track
from ltpipe.streaming.model import CausalModel

LEAST_OTHERS = -104.0
"""Log-probability that stands for zero: used for all other tokens together if theirs is below float32's range."""


class Observer(Protocol):
    """Sees predictions while their logits exist for the loss.

    Positions count predicted tokens in row-major order of [sequences, tokens - 1].
    """

    def tokens(self, logits: torch.Tensor, predicted: torch.Tensor, first: int) -> torch.Tensor:
        """Return the tokens whose log-probabilities are wanted.

        Args:
            logits: [rows, vocabulary] in the dtype of the computation; do not change them.
            predicted: int64 [rows, 1], the first of the most likely tokens.
            first: position of the first row; the others follow it.

        Returns:
            int64 [rows, k] on the device of the logits; no token occurs twice in a row.
        """
        ...

    def see(self, first: int, predicted: torch.Tensor, log_probabilities: torch.Tensor) -> None:
        """Take the requested log-probabilities.

        Args:
            first: position of the first row.
            predicted: int64 [rows, 1].
            log_probabilities: float32 [rows, k + 1] of the k tokens, and of all other tokens together.
        """
        ...


@dataclass(frozen=True)
class TokenLosses:
    """The loss of each predicted token.

    Attributes:
        losses: float32 [sequences, tokens - 1] on the CPU, nats.
        correct: bool [sequences, tokens - 1] on the CPU, whether the most likely token was the right one.
    """

    losses: torch.Tensor
    correct: torch.Tensor

    def check_finite(self) -> None:
        """Raise UserError if a loss is infinite or not a number."""
        if not self.finite:
            broken = int((~self.losses.isfinite()).sum())
            raise UserError(
                f"{broken} of {self.losses.numel()} token losses are infinite or not a number; "
                "evaluate with precision float32, or check the checkpoint"
            )

    @property
    def finite(self) -> bool:
        """Whether every loss is a finite number."""
        return bool(self.losses.isfinite().all())

    def loss_sums(self) -> torch.Tensor:
        """Return the summed loss of each sequence, float64 [sequences], nats."""
        return self.losses.double().sum(1)

    def loss(self) -> float:
        """Return the mean loss over all predicted tokens, nats per token, summed in float64."""
        return float(self.loss_sums().sum() / self.losses.numel())

    def accuracy(self) -> float:
        """Return the fraction of tokens predicted correctly."""
        return int(self.correct.sum()) / self.correct.numel()


def token_losses(
    model: CausalModel,
    input_ids: torch.Tensor,
    micro_batch: int,
    chunk: int,
    super_batch: int | None = None,
    observer: Observer | None = None,
) -> TokenLosses:
    """Return the loss of every token but each sequence's first, as `model(input_ids, labels=input_ids)` defines it.

    Args:
        model: the model.
        input_ids: int64 [sequences, tokens].
        micro_batch: number of sequences that go through a block together.
        chunk: number of tokens whose logits exist at the same time.
        super_batch: number of sequences whose hidden states exist at the same time, None for all; each super-batch
            reads all weights once.
        observer: sees the predictions too.

    Raises:
        UserError: a loss is infinite or not a number.
    """
    (losses,) = ticket_losses(model, input_ids, micro_batch, chunk, super_batch, [observer])
    losses.check_finite()
    return losses


def ticket_losses(
    model: CausalModel,
    input_ids: torch.Tensor,
    micro_batch: int,
    chunk: int,
    super_batch: int | None,
    observers: Sequence[Observer | None],
) -> list[TokenLosses]:
    """Return the same for each of the tickets that share the model's passes, each with an observer; not checked."""
    size, targets = super_batch or len(input_ids), input_ids.shape[1] - 1
    walked = [
        walk(model, part, micro_batch, chunk, observers, index * size * targets)
        for index, part in enumerate(input_ids.split(size))
    ]
    return [TokenLosses(*(torch.cat(kind) for kind in zip(*parts, strict=True))) for parts in zip(*walked, strict=True)]


@torch.inference_mode()
def walk(
    model: CausalModel,
    input_ids: torch.Tensor,
    micro_batch: int,
    chunk: int,
    observers: Sequence[Observer | None] = (None,),
    first: int = 0,
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return each ticket's losses and hits of one super-batch, [sequences, tokens - 1] on the CPU, from one walk.

    `first` is the position of its first predicted token, for the observers, of which each ticket has one.
    """
    hidden_states = model.hidden_states(input_ids, micro_batch)
    sequences, length = input_ids.shape
    targets = input_ids[:, 1:].reshape(-1)
    found = []
    with model.head():
        for own, observer in zip(hidden_states.split(sequences), observers, strict=True):
            losses = torch.empty(targets.shape, dtype=torch.float32)
            correct = torch.empty(targets.shape, dtype=torch.bool)
            for start, stop in track(model.parts(len(targets), chunk), "loss", "chunk"):
                rows = torch.arange(start, stop)
                predicting = own[rows // (length - 1), rows % (length - 1)]
                losses[rows], correct[rows] = cross_entropy(
                    model.logits(predicting), targets[rows], observer, first + start
                )
            found.append((losses.reshape(sequences, -1), correct.reshape(sequences, -1)))
    return found


def cross_entropy(
    logits: torch.Tensor, targets: torch.Tensor, observer: Observer | None = None, first: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return losses (float32, nats) and hits (bool) of [rows] targets, on the CPU; float32 logits are overwritten.

    One maximum serves both, and one float32 copy of the logits serves shift and exponential: half the time of
    `torch.nn.functional.cross_entropy` and `argmax`, with the same tie rule (the first of the most likely tokens).
    An observer's tokens are looked up along with the targets. The probability of all other tokens is summed, not
    computed as a difference from one, which would be mere rounding error if they are unlikely.
    """
    targets = targets.to(logits.device).unsqueeze(-1)
    highest, predicted = logits.max(-1, keepdim=True)
    tokens = targets if observer is None else torch.cat([targets, observer.tokens(logits, predicted, first)], -1)
    highest, wanted = highest.float(), logits.gather(-1, tokens).float()
    odds = logits.float().sub_(highest).exp_()
    normaliser = odds.sum(-1, keepdim=True).log_()
    surprisal = normaliser - (wanted - highest)
    if observer is not None:
        others = odds.scatter_(-1, tokens[:, 1:], 0).sum(-1, keepdim=True).log_().sub_(normaliser)
        known = surprisal[:, 1:].neg().clamp_(min=torch.finfo(torch.float32).min)  # a model may rule a token out
        observer.see(first, predicted, torch.cat([known, others.clamp_(min=LEAST_OTHERS)], -1))
    return surprisal[:, 0].cpu(), (predicted == targets).squeeze(-1).cpu()
