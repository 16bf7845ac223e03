"""Masks that are watched while a model trains, against masks drawn by hand from the same training."""

import numpy as np
import pytest
import torch
from torch import nn
from trainings import CLASSES, CPU, Toy, image_set, settings, toy, trained

from ltpipe.analysis.early_bird import Detector, detect
from ltpipe.analysis.early_bird_training import Drawing, watch_training
from ltpipe.pruning.masks import unpack
from ltpipe.pruning.sparsity import Sparsity
from ltpipe.runtime.errors import UserError
from ltpipe.training.packing import packed
from ltpipe.training.run import Training, TrainingName
from ltpipe.training.state import start_of

NAMED = TrainingName("study", 3)


def training(**changes):
    task = toy()
    return Training(task, settings(**changes), start_of(task.build(3)), CPU)


def by_hand(given, scope, sparsity, every, until):
    """A mask for each place: keep what is at least as large as the (1 - sparsity) largest."""
    masks = []
    for iteration in range(every, until + 1, every):
        weights = trained(given.task, given.settings, given.start, until=iteration).weights
        chosen = {name: weights[name].abs() for name in given.task.kinds(given.task.build(0))}
        everything = torch.cat([each.flatten() for each in chosen.values()])
        mask = {}
        for name, each in chosen.items():
            ranked = everything if scope == "global" else each.flatten()
            mask[name] = each >= ranked.sort(descending=True).values[round((1 - sparsity) * len(ranked)) - 1]
        masks.append(packed(mask, "magnitude", scope, 3, "", "0"))
    return masks


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_it_sees_the_masks_of_the_training_and_stops(scope):
    given = training(learning_rate=0.002)
    detector = Detector(window=3, threshold=0.05)
    found, ticket = watch_training(given, Drawing(Sparsity.of("0.5"), scope, 4), detector, NAMED)
    masks = by_hand(given, scope, 0.5, 4, 40)
    expected = detect(masks, detector)
    assert found.converged == 4 * (expected.converged + 1)
    assert found.converged < 40, "a test of stopping needs masks that converge"
    assert found.iterations == tuple(range(4, found.converged + 1, 4))
    worst = [max(step.values) if len(step.values) == 2 else None for step in expected.history]
    assert found.distances == tuple(worst[: len(found.distances)])
    last = masks[expected.converged]
    for name, bits in ticket.bits.items():
        assert (unpack(bits, ticket.shapes[name]) == unpack(last.bits[name], last.shapes[name])).all()
    assert (ticket.sparsity.text, ticket.scope, ticket.seed) == ("0.5", scope, 3)
    assert (found.training, found.replicate, found.sparsity.text) == ("study", 3, "0.5")


def test_masks_that_keep_changing_are_watched_to_the_end():
    found, _ = watch_training(training(), Drawing(Sparsity.of("0.5"), "layer", 10), Detector(threshold=0.0), NAMED)
    assert found.converged is None
    assert found.iterations == (10, 20, 30, 40)


def test_excluded_weights_are_in_no_mask():
    given = training()
    excluded, *others = given.task.kinds(given.task.build(0))
    _, ticket = watch_training(given, Drawing(Sparsity.of("0.5"), every=40, exclude=(excluded,)), Detector(), NAMED)
    assert list(ticket.bits) == others


def test_a_step_that_is_never_reached_is_refused():
    with pytest.raises(UserError, match="is not allowed; use 1 to 40"):
        watch_training(training(), Drawing(Sparsity.of("0.5"), "layer", 41), Detector(), NAMED)


def normalised(seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 7, 3), nn.BatchNorm2d(7), nn.ReLU(),
            nn.Flatten(), nn.Linear(7 * 4, CLASSES),
        )  # fmt: skip


@pytest.mark.parametrize("slimming", [0.0, 0.05])
def test_channels_are_ranked_by_the_scales_of_all_normalisations(slimming):
    """The masks of the paper: all scales together, those of a training with the penalty of network slimming."""

    class Slimmed(Toy):
        def loss(self, model, inputs, labels):
            scales = [model.get_parameter(f"{layer}.weight") for layer in (1, 4)]
            return super().loss(model, inputs, labels) + slimming * sum(each.abs().sum() for each in scales)

    parts = image_set(100, 1), image_set(60, 2), image_set(60, 3)
    given, by_hand = (
        Training(kind(normalised, *parts), settings(learning_rate=0.02), start_of(normalised(3)), CPU)
        for kind in (Toy, Slimmed)
    )
    drawing = Drawing(Sparsity.of("0.5"), "layer", 20, of="channels", slimming=slimming)
    found, mask = watch_training(given, drawing, Detector(threshold=0.0), NAMED)
    assert found.iterations == (20, 40)
    assert mask.shapes == {"1.weight": (5,), "4.weight": (7,)}
    weights = trained(by_hand.task, by_hand.settings, by_hand.start, until=40).weights
    ranked = torch.cat([weights["1.weight"], weights["4.weight"]]).abs()
    expected = ranked > ranked.sort().values[5]
    kept = np.concatenate([unpack(mask.bits[name], mask.shapes[name]) for name in mask.shapes])
    assert (kept == expected.numpy()).all()
    assert mask.scope == "global"


def test_a_model_without_normalisation_has_no_channels():
    task = toy("lenet-300-100")
    plain = Training(task, settings(), start_of(task.build(3)), CPU)
    for given in ({"of": "channels"}, {"slimming": 0.1}):
        with pytest.raises(UserError, match="early_bird: the model has no batch normalisation"):
            watch_training(plain, Drawing(Sparsity.of("0.5"), "layer", 20, **given), Detector(), NAMED)
