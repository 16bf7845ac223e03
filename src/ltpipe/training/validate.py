"""Loss and accuracy of a model on images, and the callback that follows them while it trains."""

import math

import torch
from torch import nn
from torch.nn import functional

from ltpipe.runtime.errors import UserError
from ltpipe.training.images import ImageSet
from ltpipe.training.live import LiveTraining
from ltpipe.training.loop import Callback
from ltpipe.training.state import Point, copied

_BATCH = 1000


@torch.no_grad()
def evaluate(model: nn.Module, images: ImageSet) -> tuple[float, float]:
    """Mean loss, nats an image, and accuracy, a fraction; in evaluation mode, sums in float64.

    The model comes back in the mode it was in.
    """
    training = model.training
    model.eval()
    loss, correct = 0.0, 0
    for inputs, labels in zip(images.images.split(_BATCH), images.labels.split(_BATCH), strict=True):
        logits = model(inputs)
        loss += functional.cross_entropy(logits, labels, reduction="none").double().sum().item()
        correct += int((logits.argmax(1) == labels).sum())
    model.train(training)
    return loss / len(images.labels), correct / len(images.labels)


def validation(images: ImageSet) -> Callback:
    """The callback that evaluates at the intervals of the settings, and keeps the weights of the smallest loss."""

    def follow(live: LiveTraining) -> None:
        seen = live.validation[-1].iteration if live.validation else -1
        if live.iteration == seen or not live.settings.evaluates_at(live.iteration):
            return  # a training that goes on from a file has seen the point where it goes on
        loss, accuracy = evaluate(live.model, images)
        if not math.isfinite(loss):
            raise UserError(
                f"training has diverged: the validation loss after {live.iteration} iterations is {loss}; lower "
                f"the learning rate ({live.settings.learning_rate})"
            )
        if all(loss < point.loss for point in live.validation):
            live.best = copied({**dict(live.model.named_parameters()), **dict(live.model.named_buffers())})
        live.validation.append(Point(live.iteration, loss, accuracy))

    return follow
