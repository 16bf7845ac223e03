"""Next-token losses in chunks: logits of [tokens, vocabulary] never exist for a whole batch."""

from dataclasses import dataclass

import torch

from ltpipe.runtime.errors import UserError
from ltpipe.runtime.progress import track
from ltpipe.streaming.model import CausalModel


@dataclass(frozen=True)
class TokenLosses:
    """What each predicted token cost.

    Attributes:
        losses: float32 [sequences, tokens - 1] on the CPU, nats.
        correct: bool [sequences, tokens - 1] on the CPU, whether the most likely token was the right one.
    """

    losses: torch.Tensor
    correct: torch.Tensor

    def loss_sums(self) -> torch.Tensor:
        """Summed loss of each sequence, float64 [sequences], nats."""
        return self.losses.double().sum(1)

    def loss(self) -> float:
        """Mean loss over all predicted tokens, nats per token, summed in float64."""
        return float(self.loss_sums().sum() / self.losses.numel())

    def accuracy(self) -> float:
        """Fraction of tokens that were predicted right."""
        return int(self.correct.sum()) / self.correct.numel()


def token_losses(
    model: CausalModel, input_ids: torch.Tensor, micro_batch: int, chunk: int, super_batch: int | None = None
) -> TokenLosses:
    """Loss of every token but the first of each sequence, as `model(input_ids, labels=input_ids)` defines it.

    Args:
        model: gives hidden states and logits.
        input_ids: int64 [sequences, tokens].
        micro_batch: sequences that go through a block together.
        chunk: tokens whose logits exist at the same time.
        super_batch: sequences whose hidden states exist at the same time, None for all; each super-batch reads all
            weights once.

    Raises:
        UserError: a loss is infinite or not a number.
    """
    parts = [walk(model, part, micro_batch, chunk) for part in input_ids.split(super_batch or len(input_ids))]
    losses, correct = (torch.cat(kind) for kind in zip(*parts, strict=True))
    if not bool(losses.isfinite().all()):
        broken = int((~losses.isfinite()).sum())
        raise UserError(
            f"{broken} of {losses.numel()} token losses are infinite or not a number; "
            "evaluate with precision float32, or check the checkpoint"
        )
    return TokenLosses(losses, correct)


@torch.inference_mode()
def walk(
    model: CausalModel, input_ids: torch.Tensor, micro_batch: int, chunk: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses and hits of one super-batch, [sequences, tokens - 1] on the CPU: one walk over the model."""
    hidden_states = model.hidden_states(input_ids, micro_batch)
    sequences, length = input_ids.shape
    targets = input_ids[:, 1:].reshape(-1)
    losses = torch.empty(targets.shape, dtype=torch.float32)
    correct = torch.empty(targets.shape, dtype=torch.bool)
    with model.head():
        for start, stop in track(model.parts(len(targets), chunk), "loss", "chunk"):
            rows = torch.arange(start, stop)
            predicting = hidden_states[rows // (length - 1), rows % (length - 1)]
            losses[rows], correct[rows] = cross_entropy(model.logits(predicting), targets[rows])
    return losses.reshape(sequences, -1), correct.reshape(sequences, -1)


def cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses (float32, nats) and hits (bool) of [rows] targets, on the CPU; float32 logits are used up.

    One maximum serves both, and one float32 copy of the logits both shift and exponential: half of the time of
    `torch.nn.functional.cross_entropy` and `argmax`, with the same rule for ties (the first of the most likely tokens).
    """
    targets = targets.to(logits.device).unsqueeze(-1)
    highest, likeliest = logits.max(-1, keepdim=True)
    highest, wanted = highest.float(), logits.gather(-1, targets).float()
    normaliser = logits.float().sub_(highest).exp_().sum(-1, keepdim=True).log_()
    return (normaliser - (wanted - highest)).squeeze(-1).cpu(), (likeliest == targets).squeeze(-1).cpu()
