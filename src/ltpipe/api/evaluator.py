"""Evaluates a live model, dense or masked, on batches from the CPU."""

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from ltpipe.api.batches import Batch
from ltpipe.api.losses import Totals, agrees, causal_totals, native_cross_entropy, plain_totals
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
    """What an evaluation found: mean loss in nats a label, fraction of labels right (None if unknown), batches."""

    loss: float
    accuracy: float | None
    batches: int

    @classmethod
    def of(cls, totals: Sequence[Totals]) -> "Result":
        """The mean over all labels of some batches, summed in float64.

        Raises:
            UserError: there are no labels, or the loss is infinite or not a number.
        """
        count = sum(each.count for each in totals)
        if not count:
            raise UserError(
                "dataloader: nothing is to be predicted; its batches hold no labels but ignored ones (-100)"
            )
        loss = math.fsum(each.loss for each in totals) / count
        if not math.isfinite(loss):
            raise UserError("the loss is infinite or not a number; evaluate in float32, or check the model")
        hits = [each.correct for each in totals if each.correct is not None]
        return cls(loss, sum(hits) / count if len(hits) == len(totals) else None, len(totals))


class Evaluator:
    """Evaluates one model on one kind of batches, inside `evaluating`.

    Args:
        model: dense when it is given here; it may be masked later.
        example: a batch; decides whether the model is evaluated in pieces, as a causal language model.
        precision_mode: `high` or `fast`.

    Attributes:
        causal: the model in two, if it is evaluated in pieces; else None.

    Raises:
        UserError: there is no such precision mode, or the model has no values.
    """

    def __init__(self, model: nn.Module, example: Batch, precision_mode: Precision) -> None:
        if precision_mode not in _ENTROPY:
            raise UserError(f"precision_mode '{precision_mode}' is unknown; known are {', '.join(_ENTROPY)}")
        self._model = model
        self._entropy = _ENTROPY[precision_mode]
        held = next(model.parameters(), None)
        if held is not None and held.is_meta:
            raise UserError(f"{type(model).__name__} is on the meta device and has no values; load the weights first")
        self._device = torch.device("cpu") if held is None else held.device
        self.causal = self._split_model(example)

    def evaluate(self, batches: Iterable[Batch]) -> Result:
        """Mean loss and accuracy over batches.

        Raises:
            UserError: batches do not fit the model, or the loss is not finite.
        """
        return Result.of(self.totals(batches))

    def totals(self, batches: Iterable[Batch]) -> list[Totals]:
        """Sums of each batch."""
        return [self._totals(batch) for batch in batches]

    def _totals(self, batch: Batch) -> Totals:
        text = batch.as_text() if self.causal is not None else None
        if self.causal is None or text is None:
            return plain_totals(self._model, batch, self._device, self._entropy)
        totals = causal_totals(self.causal, text, self._device, self._entropy)
        return totals if batch.labels is not None else replace(totals, correct=None)

    def _split_model(self, example: Batch) -> SplitModel | None:
        """The model in two, if it is a causal language model whose loss is that of transformers: found by trying."""
        text = example.as_text()
        if text is None or not hasattr(self._model, "config"):
            return None
        try:
            split = SplitModel(self._model, blocks_name(self._model))
            if agrees(split, text, self._device):
                return split
            reason = "its loss is not the mean cross-entropy of the next token"
        except Exception as error:  # whatever a model raises that is built in another way
            if is_out_of_memory(error):
                raise  # a plain forward would need more
            reason = str(error) or type(error).__name__
        logger.warning("the logits of a whole batch are made: %s", reason)
        return None


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; every module's own mode comes back, whatever happens."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
