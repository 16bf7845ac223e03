"""Levels of pruning against a plain Python oracle, and the numbers of the paper."""

import pytest
import torch

from ltpipe.runtime.errors import UserError
from ltpipe.training import levels, models

GENERATOR = torch.Generator().manual_seed(0)


def tensors(ties: bool = False) -> dict[str, torch.Tensor]:
    values = {name: torch.randn(shape, generator=GENERATOR) for name, shape in {"b": (7, 5), "a": (3, 4, 2)}.items()}
    return {name: (value * 2).round() / 2 for name, value in values.items()} if ties else values


def oracle(weights, mask, names, count):
    """Sort (|w|, name, index) of what is left; the first `count` go."""
    left = sorted(
        (abs(value), name.encode(), place)
        for name in names
        for place, value in enumerate(weights[name].flatten().tolist())
        if mask[name].flatten()[place]
    )
    result = {name: mask[name].clone() for name in names}
    for _, name, place in left[:count]:
        result[name.decode()].view(-1)[place] = False
    return result


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("ties", [False, True])
def test_levels_equal_the_oracle_and_are_nested(ties):
    weights = tensors(ties)
    layered = everywhere = levels.dense_mask(weights, ["b", "a"])
    for _ in range(8):
        weights = {name: value + (0 if ties else 0.3) for name, value in weights.items()}  # they train
        scores = levels.magnitudes(weights)
        expected = {}
        for name, fraction in {"b": 0.2, "a": 0.1}.items():
            expected |= oracle(weights, layered, [name], round(fraction * int(layered[name].sum())))
        before, layered = layered, levels.prune_layers(scores, layered, {"b": 0.2, "a": "0.1"})
        assert equal(layered, expected)
        assert all(bool((before[name] | ~layered[name]).all()) for name in layered)
        remaining = sum(int(kept.sum()) for kept in everywhere.values())
        expected = oracle(weights, everywhere, ["b", "a"], round(0.3 * remaining))
        everywhere = levels.prune_globally(scores, everywhere, "0.3")
        assert equal(everywhere, expected)


def test_equal_scores_go_in_canonical_order_and_the_mask_given_is_untouched():
    weights = {"z": torch.ones(4), "é": torch.ones(2), "a": torch.ones(2)}
    mask = levels.dense_mask(weights, weights)
    pruned = levels.prune_globally(weights, mask, 0.5)
    assert [pruned[name].tolist() for name in ("a", "z", "é")] == [[False] * 2, [False, False, True, True], [True] * 2]
    assert all(bool(kept.all()) for kept in mask.values())
    assert list(pruned) == ["z", "é", "a"]


def test_a_weight_that_trained_to_zero_is_no_pruned_one():
    mask = {"w": torch.tensor([False, True, True, True, False])}
    scores = levels.magnitudes({"w": torch.tensor([0.0, 3.0, 0.0, -2.0, 0.0])})
    assert levels.prune_layers(scores, mask, {"w": "0.34"})["w"].tolist() == [False, True, False, True, False]
    assert levels.prune_layers(scores, mask, {"w": "0.67"})["w"].tolist() == [False, True, False, False, False]


def test_lenet_keeps_the_percentages_of_the_paper():
    """Frankle & Carbin 2019, figures 1 and 5: with 20 % of hidden layers and 10 % of the output a level."""
    model = models.build_model("lenet-300-100", (1, 28, 28), 10, 0)
    kinds = models.prunable_kinds(model)
    assert sorted(kinds.values()) == ["hidden", "hidden", "output"]
    weights = dict(model.named_parameters())
    mask, remaining = levels.dense_mask(weights, kinds), {}
    fractions = {name: {"hidden": "0.2", "output": "0.1"}[kind] for name, kind in kinds.items()}
    for level in range(1, 16):
        mask = levels.prune_layers(levels.magnitudes(weights), mask, fractions)
        remaining[level] = round(100 * levels.weights_remaining(mask), 1)
    assert [remaining[level] for level in (3, 7, 9, 11, 15)] == [51.3, 21.1, 13.5, 8.7, 3.6]


def test_masks_make_new_weights_that_are_plus_zero():
    weights = {"w": torch.tensor([-1.0, 2.0, float("inf")]), "bias": torch.tensor([3.0])}
    held = levels.apply_mask(weights, {"w": torch.tensor([False, True, False])})
    assert held["w"].tolist() == [0.0, 2.0, 0.0]
    assert not held["w"].signbit().any()
    held["bias"] += 1
    assert weights["bias"].item() == 3


@pytest.mark.parametrize(
    ("scores", "fractions", "message"),
    [
        ({"w": torch.tensor([1.0, float("nan")])}, {"w": 0.5}, "not finite"),
        ({"w": torch.ones(3)}, {"w": 0.5}, "of shape"),
        ({}, {"w": 0.5}, "missing"),
        ({"w": torch.ones(2)}, {}, "no fraction to prune per level for w"),
        ({"w": torch.ones(2)}, {"w": 1.5}, "fraction from 0 to 1"),
    ],
)
def test_bad_input_is_refused(scores, fractions, message):
    with pytest.raises(UserError, match=message):
        levels.prune_layers(scores, {"w": torch.ones(2, dtype=torch.bool)}, fractions)
