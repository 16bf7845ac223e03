"""Controls keep what they promise and change the rest."""

import pytest
import torch
from trainings import half_mask, noisy

from ltpipe.training import controls, levels, models


@pytest.fixture
def mask():
    return half_mask(noisy())


def kept(mask):
    return {name: int(each.sum()) for name, each in mask.items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_shuffled_masks_keep_each_density_and_random_ones_the_total(mask):
    within, anywhere = controls.shuffled(mask, 1), controls.random_mask(mask, 1)
    assert kept(within) == kept(mask)
    assert sum(kept(anywhere).values()) == sum(kept(mask).values())
    assert kept(anywhere) != kept(mask)
    for control in (within, anywhere):
        assert {name: each.shape for name, each in control.items()} == {name: each.shape for name, each in mask.items()}
        assert not same(control, mask)
    for make in (controls.shuffled, controls.random_mask):
        assert same(make(mask, 1), make(mask, 1))
        assert not same(make(mask, 1), make(mask, 2))


def test_random_masks_prune_every_tensor_alike():
    dense = {"a": torch.ones(100, 100, dtype=torch.bool), "b": torch.zeros(100, 100, dtype=torch.bool)}
    found = kept(controls.random_mask(dense, 0))
    assert abs(found["a"] - 5000) < 5 * 50  # five standard deviations of the hypergeometric distribution


def test_shuffling_moves_every_place_alike():
    single = {"w": torch.arange(20) == 0}
    places = [int(controls.shuffled(single, seed)["w"].nonzero()) for seed in range(400)]
    assert set(places) == set(range(20))


def test_controls_of_nested_masks_are_nested(mask):
    weights = dict(noisy().named_parameters())
    sparser = levels.prune_layers(levels.magnitudes(weights), mask, dict.fromkeys(mask, 0.3))
    for make in (controls.shuffled, controls.random_mask):
        dense, sparse = make(mask, 4), make(sparser, 4)
        assert all(bool((dense[name] | ~sparse[name]).all()) for name in dense)


def test_no_global_randomness():
    before = torch.get_rng_state()
    mask = half_mask(noisy())
    controls.shuffled(mask, 0), controls.random_mask(mask, 0)
    models.build_model("resnet-20", (3, 8, 8), 10, 0)
    assert torch.equal(torch.get_rng_state(), before)
