"""Evaluation of a live model, dense or masked, on batches from the CPU."""

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from ltpipe.api.batches import Batch
from ltpipe.api.losses import (
    Totals,
    agrees,
    backbone_output,
    causal_totals,
    micro_batches,
    native_cross_entropy,
    plain_totals,
)
from ltpipe.checkpoints.contents import blocks_name
from ltpipe.evaluation.loss import cross_entropy
from ltpipe.runtime.device import is_out_of_memory
from ltpipe.runtime.errors import UserError
from ltpipe.streaming.split import SplitModel

logger = logging.getLogger(__name__)

Precision = Literal["high", "fast"]
_ENTROPY = {"high": cross_entropy, "fast": native_cross_entropy}


@dataclass(frozen=True)
class Result:
    """The result of an evaluation: mean loss in nats per label, accuracy as a fraction (None if unknown), batches."""

    loss: float
    accuracy: float | None
    batches: int

    @classmethod
    def of(cls, totals: Sequence[Totals]) -> "Result":
        """Return the mean over all labels of some batches, summed in float64.

        Raises:
            UserError: there are no labels, or the loss is infinite or NaN.
        """
        count = sum(each.count for each in totals)
        if not count:
            raise UserError(
                "dataloader: nothing to predict: its batches only have ignored labels (-100); provide other labels"
            )
        loss = math.fsum(each.loss for each in totals) / count
        if not math.isfinite(loss):
            raise UserError("the loss is infinite or NaN; evaluate in float32 or check the model")
        hits = [each.correct for each in totals if each.correct is not None]
        return cls(loss, sum(hits) / count if len(hits) == len(totals) else None, len(totals))


class Evaluator:
    """Evaluates one model on one kind of batch, inside `evaluating`.

    The first batch decides whether the model is evaluated in pieces, as a causal language model.

    Args:
        model: dense or masked.
        precision_mode: `high` or `fast`.

    Raises:
        UserError: there is no such precision mode, or the model has no values.
    """

    def __init__(self, model: nn.Module, precision_mode: Precision) -> None:
        if precision_mode not in _ENTROPY:
            raise UserError(f"precision_mode: '{precision_mode}' is not allowed; use {' or '.join(_ENTROPY)}")
        self._model = model
        self._entropy = _ENTROPY[precision_mode]
        held = next(model.parameters(), None)
        if held is not None and held.is_meta:
            raise UserError(f"{type(model).__name__} is on the meta device and has no values; load the weights first")
        self._device = torch.device("cpu") if held is None else held.device
        self._split: SplitModel | None = None
        self._is_decided = False

    def evaluate(self, batches: Iterable[Batch]) -> Result:
        """Return mean loss and accuracy over batches.

        Raises:
            UserError: batches do not fit the model, or the loss is not finite.
        """
        return Result.of(self.totals(batches))

    def totals(self, batches: Iterable[Batch]) -> list[Totals]:
        """Return the totals of each batch."""
        return [self._totals(batch) for batch in batches]

    def in_pieces(self, example: Batch) -> bool:
        """Return whether the model is evaluated in pieces."""
        if not self._is_decided:
            self._decide(example)
        return self._split is not None

    def _totals(self, batch: Batch) -> Totals:
        first = None if self._is_decided else self._decide(batch)
        text = batch.as_text() if self._split is not None else None
        if self._split is None or text is None:
            return plain_totals(self._model, batch, self._device, self._entropy)
        totals = causal_totals(self._split, text, self._device, self._entropy, first)
        return totals if batch.labels is not None else replace(totals, correct=None)

    def _decide(self, example: Batch) -> torch.Tensor | None:
        """Try whether the model is a causal language model with the loss of transformers.

        Return the hidden states of the batch's first micro-batch, [sequences, tokens, width], if it is.
        """
        self._is_decided = True
        text = example.as_text()
        if text is None or not hasattr(self._model, "config"):
            return None
        try:
            split = SplitModel(self._model, blocks_name(self._model))
            output = backbone_output(split, next(micro_batches(text)), self._device)
            if agrees(split, output, text):
                self._split = split
                return output.last_hidden_state
            reason = "its loss is not the mean cross-entropy of the next token"
        except Exception as error:  # a model with another structure can raise anything
            if is_out_of_memory(error):
                raise  # a plain forward pass would need more memory
            reason = str(error) or type(error).__name__
        logger.warning("computing the logits of whole batches at once: %s", reason)
        return None


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Enter evaluation mode without gradients; every module's own mode is restored, also after an exception."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
