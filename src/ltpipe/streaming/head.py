"""Differentiable next-token losses, without logits of [tokens, vocabulary] for a whole batch."""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from ltpipe.runtime.progress import track
from ltpipe.streaming.gradients import gradient_of
from ltpipe.streaming.model import CausalModel

Objective = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""The objective to sum and differentiate: float32 logits [rows, vocabulary], int64 targets [rows] to float32 [rows]."""


def next_token_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy, nats."""
    return cross_entropy(logits, targets, reduction="none")


class HeadLosses(torch.autograd.Function):
    """The head and the loss as one node of the graph.

    The gradient with respect to the hidden states is computed along with the losses, while the logits of a chunk exist;
    the backward pass only passes it on. It is the gradient of the *summed* losses, whatever weights they get
    afterwards.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_states: torch.Tensor,
        model: CausalModel,
        input_ids: torch.Tensor,
        chunk: int,
        objective: Objective,
    ) -> torch.Tensor:
        """Compute the loss of every token but the first of each sequence.

        Args:
            ctx: autograd context, which keeps the gradient.
            hidden_states: final hidden states, [sequences, tokens, width].
            model: the model with the head.
            input_ids: int64 [sequences, tokens], on the model's device.
            chunk: number of tokens whose logits exist at the same time.
            objective: the loss of a token.

        Returns:
            float32 [sequences, tokens - 1] on the CPU.
        """
        sequences, length = input_ids.shape
        targets = input_ids[:, 1:].reshape(-1)
        losses = torch.empty(targets.shape, dtype=torch.float32, device="cpu")
        gradient = torch.zeros_like(hidden_states)
        with model.head(), torch.enable_grad():
            for start, stop in track(model.parts(len(targets), chunk), "loss", "chunk"):
                rows = torch.arange(start, stop)
                where = rows // (length - 1), rows % (length - 1)
                predicting = hidden_states.detach()[where].requires_grad_()
                found = _losses(model, predicting, targets[start:stop], objective)
                found.sum().backward()
                losses[rows] = found.detach().cpu()
                gradient[where] = gradient_of(predicting)
        ctx.gradient = gradient
        return losses.reshape(sequences, -1)

    @staticmethod
    def backward(ctx: Any, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradient that `forward` computed, and drop it."""
        gradient, ctx.gradient = ctx.gradient, None
        return gradient, None, None, None, None


def _losses(
    model: CausalModel, hidden_states: torch.Tensor, targets: torch.Tensor, objective: Objective
) -> torch.Tensor:
    """Return losses, float32 [rows]; the logits are freed as soon as autograd no longer needs them."""
    return objective(model.split.logits(hidden_states).float(), targets)
