"""The loop against a bare torch loop, and masks that hold in every step."""

from dataclasses import replace
from itertools import islice

import pytest
import torch
from torch import nn
from torch.nn import functional
from trainings import Noisy, half_mask, noisy, settings, toy, trained

from ltpipe.runtime.errors import UserError
from ltpipe.training import levels
from ltpipe.training.loop import batches
from ltpipe.training.state import rewind, start_of

OPTIMIZERS = {
    "sgd": {"learning_rate": 0.05, "momentum": 0.9, "weight_decay": 0.01},
    "adam": {"weight_decay": 0.01},
    "adamw": {"weight_decay": 0.1},
}


def plain_optimizer(chosen, parameters):
    """Torch's own defaults, one tensor at a time."""
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[chosen.optimizer]
    momentum = {"momentum": chosen.momentum} if chosen.optimizer == "sgd" else {}
    return kind(parameters, lr=chosen.learning_rate, weight_decay=chosen.weight_decay, **momentum)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_it_is_a_bare_loop_that_sets_pruned_weights_to_zero(optimizer):
    chosen = settings(optimizer=optimizer, warmup=5, milestones=(20,), **OPTIMIZERS[optimizer])
    task = toy("lenet-300-100")
    mask = half_mask(task.build(0))
    found = trained(task, chosen, rewind(start_of(task.build(0)), mask))

    model = task.build(0)
    named = dict(model.named_parameters())
    with torch.no_grad():
        for name, kept in mask.items():
            named[name] *= kept
    bare = plain_optimizer(chosen, model.parameters())
    for iteration, order in enumerate(islice(batches(100, 12, 3, 0), 40)):
        bare.param_groups[0]["lr"] = chosen.rate(iteration)
        bare.zero_grad()
        functional.cross_entropy(model(task.train.inputs[order]), task.train.labels[order]).backward()
        for name, kept in mask.items():
            named[name].grad[~kept] = 0
        bare.step()
    assert found.iteration == 40
    for name, tensor in named.items():
        torch.testing.assert_close(found.weights[name], tensor.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_pruned_weights_their_gradients_and_momenta_are_zero_after_every_step(optimizer):
    model, seen = noisy(), []
    mask = half_mask(model)

    def check(live):
        state = live.state()
        for name, kept in mask.items():
            assert not state.weights[name][~kept].any()
            if live.iteration:
                assert not dict(model.named_parameters())[name].grad[~kept].any()
        for whole, tensor in state.optimizer.items():
            name, _, what = whole.rpartition("/")
            if name in mask and what != "step":
                assert not tensor[~mask[name]].any()
                assert tensor[mask[name]].any()
                seen.append(what)

    start = rewind(start_of(model), mask)
    found = trained(toy(), settings(optimizer=optimizer, **OPTIMIZERS[optimizer]), start, [check], model=model)
    kinds = {"sgd": {"momentum_buffer"}}.get(optimizer, {"exp_avg", "exp_avg_sq"})
    assert set(seen) == kinds
    assert len(seen) == 40 * len(mask) * len(kinds)
    for name, kept in mask.items():
        moved = found.weights[name] != start.weights[name]
        assert torch.equal(moved, kept), "every kept weight trains, the negative ones too"
        assert (start.weights[name] < 0).any()


def test_the_order_of_a_step_is_the_same_wherever_training_starts():
    whole = list(islice(batches(100, 12, 7, 0), 30))
    for start in (0, 1, 7, 8, 9, 17):
        assert all(torch.equal(a, b) for a, b in zip(whole[start:], batches(100, 12, 7, start), strict=False))
    epochs = [torch.cat(whole[8 * epoch : 8 * epoch + 8]).tolist() for epoch in range(3)]
    assert all(len(set(epoch)) == 96 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert [each.tolist() for each in islice(batches(100, 12, 8, 0), 8)] != [each.tolist() for each in whole[:8]]
    assert sorted(next(batches(12, 12, 0, 5)).tolist()) == list(range(12))
    with pytest.raises(UserError, match="use 1 to 11"):
        next(batches(11, 12, 0, 0))


def test_callbacks_are_called_before_the_first_step_and_after_every_one():
    calls = []
    callbacks = [lambda live: calls.append(("a", live.iteration)), lambda live: calls.append(("b", live.iteration))]
    trained(toy(), settings(), start_of(noisy()), callbacks, until=3)
    assert calls == [(name, iteration) for iteration in range(4) for name in "ab"]


def test_the_global_generator_neither_matters_nor_moves():
    torch.manual_seed(1)
    first = trained(toy(), settings(), start_of(noisy()))
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = trained(toy(), settings(), start_of(noisy()))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first.weights[name], second.weights[name]) for name in first.weights)


def test_a_mask_or_state_that_does_not_fit_is_refused():
    start = start_of(noisy())
    with pytest.raises(UserError, match="pruned weights are not 0 at the start"):
        trained(toy(), settings(), replace(start, mask=half_mask(noisy())))
    with pytest.raises(UserError, match="'w' does not match a parameter"):
        trained(toy(), settings(), replace(start, mask={"w": torch.ones(1, dtype=torch.bool)}))
    with pytest.raises(UserError, match="belongs to another model"):
        trained(toy("lenet-300-100"), settings(), start)


def test_magnitudes_of_negative_weights_count():
    model = noisy()
    weights = dict(model.named_parameters())
    mask = half_mask(model)
    for name, kept in mask.items():
        values = weights[name].detach()
        assert ((values < 0) & kept).any()
        assert ((values > 0) & ~kept).any()
    assert levels.weights_remaining(mask) == pytest.approx(0.5, abs=1e-3)


def test_weights_that_the_model_does_not_use_may_be_pruned():
    class Idle(Noisy):
        def __init__(self):
            super().__init__()
            self.idle = nn.Linear(5, 5)

    task, model = toy(), Idle()
    start = rewind(start_of(model), half_mask(model))
    assert not start.mask["idle.weight"].all()
    state = trained(task, settings(), start, model=model)
    assert torch.equal(state.weights["idle.weight"], start.weights["idle.weight"])
    for name, kept in start.mask.items():
        assert not state.weights[name][~kept].any()
