"""Loss and accuracy of a model on examples, and the callback that tracks them during training."""

import math

import torch
from torch import nn
from torch.nn import functional

from ltpipe.runtime.errors import UserError
from ltpipe.training.examples import Examples
from ltpipe.training.live import Callback, LiveTraining
from ltpipe.training.state import Point
from ltpipe.training.task import Task

_LABELS = 1024


@torch.no_grad()
def evaluate(task: Task, model: nn.Module, examples: Examples) -> tuple[float, float]:
    """Return mean loss, nats per label, and accuracy, a fraction; evaluation mode, float32 logits, float64 sums.

    The model returns to its previous mode.
    """
    training = model.training
    model.eval()
    at_once = max(1, _LABELS // examples.labels[0].numel())  # examples per batch; bounds the logits in memory
    loss, correct = 0.0, 0
    for inputs, labels in zip(examples.inputs.split(at_once), examples.labels.split(at_once), strict=True):
        logits, wanted = task.logits(model, inputs).float().flatten(0, -2), labels.flatten()
        loss += functional.cross_entropy(logits, wanted, reduction="none").double().sum().item()
        correct += int((logits.argmax(1) == wanted).sum())
    model.train(training)
    return loss / examples.labels.numel(), correct / examples.labels.numel()


def validation(task: Task, examples: Examples, first: int = 0) -> Callback:
    """Return the callback that evaluates at the settings' intervals and keeps the weights with the smallest loss.

    Args:
        task: gives loss and logits.
        examples: the validation examples, on the device.
        first: the first iteration to evaluate; before it, gradual pruning has not reached the final density.
    """

    def follow(live: LiveTraining) -> None:
        seen = live.validation[-1].iteration if live.validation else -1
        if live.iteration in range(first) or live.iteration == seen or not live.settings.evaluates_at(live.iteration):
            return  # a resumed training has already evaluated the iteration it resumes from
        loss, accuracy = evaluate(task, live.model, examples)
        if not math.isfinite(loss):
            raise UserError(
                f"training diverged: the validation loss after {live.iteration} iterations is {loss}; lower "
                f"the learning rate ({live.settings.learning_rate})"
            )
        if all(loss < point.loss for point in live.validation):
            live.best = live.values()
        live.validation.append(Point(live.iteration, loss, accuracy))

    return follow
