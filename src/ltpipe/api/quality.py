"""The quality of a live model's ticket."""

import math
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import nn

from ltpipe.api.batches import first_batches
from ltpipe.api.evaluator import Evaluator, Precision, Result, evaluating
from ltpipe.api.masking import masked
from ltpipe.evaluation.quality import performance_retention
from ltpipe.runtime.errors import UserError


def compute_lottery_ticket_quality(
    model: nn.Module,
    mask: Mapping[str, torch.Tensor],
    dataloader: Iterable[Any],
    baseline_performance: Mapping[str, Any] | float | None = None,
    max_batches: int | None = None,
    precision_mode: Precision = "high",
) -> dict[str, float | int]:
    """Evaluate the ticket m ⊙ θ: its loss, and how much of the dense performance it retains (1803.03635).

    Evaluates in evaluation mode without gradients. Weights, mask and training mode are restored, also after an
    exception. Losses are summed in float64 and weighted by the number of labels, so the split into batches does not
    matter.

    Memory: for transformers causal language models, about a thousand tokens are on the device at a time, and eight
    million logits (170 tokens of a vocabulary of 49,152); other models get one batch at a time in a plain forward pass.
    Without `baseline_performance` the batches are kept on the CPU, since the dense model needs the same ones.

    Args:
        model: stays on its device.
        mask: parameter names to bool tensors, True where a weight is kept; `{}` is the dense model.
        dataloader: yields dicts (`input_ids`, `labels`, `attention_mask`, …), (inputs, labels) tuples, or inputs.
            Labels of -100 are ignored; labels of causal models are shifted by one, as in transformers. Without labels,
            a causal model's text is its own label, except for padding. Other models without labels must return a
            `loss`.
        baseline_performance: the dense model's performance on these batches: a dict with its `loss`, such as this
            function's result for `{}`, or the loss alone; None computes it.
        max_batches: evaluate at most this many batches.
        precision_mode: `high` computes losses in float32, `fast` in the logits' dtype (bfloat16 is off by about 0.02
            nats).

    Returns:
        loss: mean over labels, nats.
        accuracy: fraction of labels predicted correctly; only if the batches have class labels.
        sparsity: fraction of the mask's weights that are pruned; 0.0 for `{}`.
        quality_score, performance_retention: dense loss / loss; 1.0 means nothing is lost.
        num_batches_evaluated: number of batches.

    Raises:
        UserError: mask or batches do not fit the model, there is nothing to predict, a loss is not finite, or the
            baseline has no loss.
    """
    given = None if baseline_performance is None else _loss_of(baseline_performance)
    batches = first_batches(dataloader, max_batches)
    compare = given is None and bool(mask)
    if compare:
        batches = iter(kept := list(batches))
    first = next(batches, None)
    if first is None:
        raise UserError("dataloader: it yields no batch; provide at least one")
    with evaluating(model):
        evaluator = Evaluator(model, precision_mode)
        dense_loss = evaluator.evaluate(kept).loss if compare else given
        with masked(model, mask):
            result = evaluator.evaluate(chain([first], batches))
    return report(result, mask, result.loss if dense_loss is None else dense_loss)


def _loss_of(baseline: Mapping[str, Any] | float) -> float:
    """Return the loss of a baseline given in any form, NumPy and torch numbers included."""
    allowed = "use this function's result, another dict with a 'loss', or a number"
    if isinstance(baseline, Mapping) and "loss" not in baseline:
        raise UserError(f"baseline_performance: a dict of {', '.join(map(str, baseline)) or 'nothing'}; {allowed}")
    loss = baseline["loss"] if isinstance(baseline, Mapping) else baseline
    try:
        number = math.nan if isinstance(loss, str | bytes | bool) else float(loss)
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: a tensor of several elements
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"baseline_performance: {loss!r} is not a finite loss; {allowed}")
    return number


def report(result: Result, mask: Mapping[str, torch.Tensor], baseline_loss: float) -> dict[str, float | int]:
    """Return the result of `compute_lottery_ticket_quality`."""
    retention = performance_retention(baseline_loss, result.loss)
    return {
        "loss": result.loss,
        **({} if result.accuracy is None else {"accuracy": result.accuracy}),
        "sparsity": sparsity_of(mask),
        "quality_score": retention,
        "performance_retention": retention,
        "num_batches_evaluated": result.batches,
    }


def sparsity_of(mask: Mapping[str, torch.Tensor]) -> float:
    """Return the fraction of a mask's weights that are pruned; 0.0 for an empty mask."""
    total = sum(kept.numel() for kept in mask.values())
    return 1 - sum(int(np.count_nonzero(kept.cpu().numpy())) for kept in mask.values()) / total if total else 0.0
