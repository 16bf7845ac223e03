"""Iterative magnitude pruning: a quick simulation or, with a trainer, the full procedure."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from ltpipe.api.batches import first_batches
from ltpipe.api.evaluator import Evaluator, Result, evaluating
from ltpipe.api.magnitude import create_magnitude_mask
from ltpipe.api.masking import masked
from ltpipe.api.packed import PackedMask
from ltpipe.api.quality import report
from ltpipe.api.training import PERMISSION, Trainer, TrainingRounds, is_allowed, with_dataloader
from ltpipe.evaluation.quality import WINNING_RETENTION, best_ticket
from ltpipe.evaluation.simulated import BASELINE_BATCHES, SIMULATION, TICKET_BATCHES
from ltpipe.pruning.sparsity import exponential_schedule
from ltpipe.runtime.errors import UserError

_TRAINED = "full iterative magnitude pruning: every iteration trained, pruned and rewound to the initial weights."


def compute_iterative_magnitude_pruning(
    model: nn.Module,
    dataloader: Iterable[Any],
    target_sparsity: float = 0.9,
    num_iterations: int = 10,
    trainer_fn: Trainer | None = None,
    *,
    train: bool = False,
    keep_masks: bool = False,
) -> dict[str, Any]:
    """Prune iteratively by magnitude (Frankle & Carbin 2019, 1803.03635): sparsity grows exponentially to the target.

    **Simulation** (the default; trains nothing): each iteration prunes the given weights once and evaluates the ticket.
    The dense model is evaluated on at most 10 batches, each ticket on at most the first 5, and ticket quality is
    measured against the dense loss on those same batches. Batches and one mask at a time are on the CPU; iterations
    keep nothing, so all take the same memory. The best mask is recreated at the end.

    **Full** (`trainer_fn` with `train=True` or with LTPIPE_ALLOW_IMP_TRAINING=1 in the environment; takes hours):
    train → prune the smallest trained weights → rewind to the initial weights → repeat. `trainer_fn(model, dataloader)`
    trains the model in place; it may return that model, and returned values that are not models are ignored. Gradients
    of pruned weights are zeroed, and pruned weights are zero whenever training ends. The baseline is the trained dense
    model; each ticket is trained, then evaluated on all batches. Trains `num_iterations + 1` times. Initial weights and
    the last and best masks are on the host. The model ends with its initial weights, also after an exception.

    Args:
        model: on any device.
        dataloader: as for `compute_lottery_ticket_quality`; read once, apart from what the trainer reads.
        target_sparsity: sparsity of the last iteration, 0 to below 1.
        num_iterations: n; the sparsity after iteration i of n is 1 - (1 - target)^(i/n).
        trainer_fn: called with the model and `dataloader` (a list of its batches if it is an iterator), or with the
            model alone if it takes one argument.
        train: allow `trainer_fn` to run. Without it, and without LTPIPE_ALLOW_IMP_TRAINING=1 in the environment, a
            trainer is rejected, so that nobody starts hours of training by accident.
        keep_masks: keep the mask of every iteration, packed to one bit per weight: a mapping that creates an entry's
            bool tensor on access. `masked` and every other function here accept it.

    Returns:
        mode: `simulation` or `full`.
        note: the mode explained, for people.
        baseline: `loss`, `accuracy` (if there are labels), `num_batches_evaluated`.
        iterations: for each one, `iteration` (from 1), `winning` (retention of at least 0.9), `mask` (None except for
            the best, unless `keep_masks`) and everything that `compute_lottery_ticket_quality` returns.
        best_ticket: the entry of the sparsest winning ticket; if none wins, that of the ticket of highest quality.

    Raises:
        UserError: a trainer lacks permission, `train=True` lacks a trainer, or an argument is out of range.
    """
    if trainer_fn is not None and not is_allowed(train):
        raise UserError(
            f"trainer_fn would train the model {num_iterations + 1} times; pass train=True or set "
            f"{PERMISSION}=1 in the environment to allow it, or pass no trainer_fn for the simulation"
        )
    if train and trainer_fn is None:
        raise UserError("train=True needs a trainer_fn that trains the model")
    schedule = exponential_schedule(target_sparsity, num_iterations)
    if trainer_fn is None:
        return _simulate(model, dataloader, schedule, keep_masks)
    return _train(model, dataloader, schedule, trainer_fn, keep_masks)


def _simulate(model: nn.Module, dataloader: Iterable[Any], schedule: list[float], keep_masks: bool) -> dict[str, Any]:
    batches = list(first_batches(dataloader, BASELINE_BATCHES))
    _check(batches)
    with evaluating(model):
        evaluator = Evaluator(model, "high")
        dense = evaluator.totals(batches)
        dense_loss = Result.of(dense[:TICKET_BATCHES]).loss
        iterations = []
        for index, sparsity in enumerate(schedule, 1):
            mask = create_magnitude_mask(model, sparsity)
            with masked(model, mask):
                ticket = evaluator.evaluate(batches[:TICKET_BATCHES])
            iterations.append(_entry(index, ticket, mask, dense_loss))
            iterations[-1]["mask"] = PackedMask.of(mask) if keep_masks else None
            del mask
    best = iterations[_best(iterations)]
    if not keep_masks:
        best["mask"] = create_magnitude_mask(model, schedule[best["iteration"] - 1])
    return _found("simulation", SIMULATION, Result.of(dense), iterations, best)


def _train(
    model: nn.Module, dataloader: Iterable[Any], schedule: list[float], trainer_fn: Trainer, keep_masks: bool
) -> dict[str, Any]:
    raw = list(dataloader) if iter(dataloader) is dataloader else dataloader  # an iterator can only be read once
    batches = list(first_batches(raw, None))
    _check(batches)
    evaluator = Evaluator(model, "high")
    iterations: list[dict[str, Any]] = []
    mask: dict[str, torch.Tensor] = {}
    with TrainingRounds(model, with_dataloader(trainer_fn, raw)) as rounds:
        rounds.train(mask)
        with evaluating(model):
            dense = evaluator.evaluate(batches)
        for index, sparsity in enumerate(schedule, 1):
            mask = _nested(create_magnitude_mask(model, sparsity), mask)
            rounds.train(mask)
            with evaluating(model):
                ticket = evaluator.evaluate(batches)
            iterations.append(_entry(index, ticket, mask, dense.loss))
            iterations[-1]["mask"] = PackedMask.of(mask) if keep_masks else mask
            best = _best(iterations)
            for place, entry in enumerate(iterations):
                entry["mask"] = entry["mask"] if keep_masks or place == best else None
    return _found("full", _TRAINED, dense, iterations, iterations[best])


def _check(batches: list[Any]) -> None:
    if not batches:
        raise UserError("dataloader: it yields no batch; provide at least one")


def _nested(mask: dict[str, torch.Tensor], before: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Keep pruned weights pruned: a weight that trained to exactly zero ties with them in the ranking."""
    for name, kept in before.items():
        mask[name] &= kept
    return mask


def _entry(index: int, ticket: Result, mask: Mapping[str, torch.Tensor], dense_loss: float) -> dict[str, Any]:
    found = report(ticket, mask, dense_loss)
    return {"iteration": index, **found, "winning": found["quality_score"] >= WINNING_RETENTION, "mask": None}


def _best(iterations: list[dict[str, Any]]) -> int:
    """Return the index of the best entry."""
    return best_ticket(*([entry[key] for entry in iterations] for key in ("sparsity", "quality_score")))


def _found(
    mode: str, note: str, dense: Result, iterations: list[dict[str, Any]], best: dict[str, Any]
) -> dict[str, Any]:
    accuracy = {} if dense.accuracy is None else {"accuracy": dense.accuracy}
    return {
        "mode": mode,
        "note": note,
        "baseline": {"loss": dense.loss, **accuracy, "num_batches_evaluated": dense.batches},
        "iterations": iterations,
        "best_ticket": best,
    }
