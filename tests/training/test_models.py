"""Sizes against the papers, and initial weights that depend on names and a seed only."""

import pytest
import torch
from torch import nn

from ltpipe.runtime.errors import UserError
from ltpipe.training import models

CIFAR = (3, 32, 32)


@pytest.mark.parametrize(
    ("name", "shape", "weights", "convolutions"),
    [  # Frankle & Carbin 2019, figure 2: all weights and those of convolutions
        ("lenet-300-100", (1, 28, 28), 266_200, 0),
        ("conv-2", CIFAR, 4_301_000, 38_592),
        ("conv-4", CIFAR, 2_424_000, 259_776),
        # its 1.7 M for Conv-6 do not follow from its layers: 4 x 4 x 256 pixels into 256 units alone are 1.05 M
        ("conv-6", CIFAR, 1_144_512 + (4 * 4 * 256 + 256 + 10) * 256, 1_144_512),
        ("resnet-20", CIFAR, 270_000, 268_000),
    ],
)
def test_sizes_of_the_papers(name, shape, weights, convolutions):
    model = models.build_model(name, shape, 10, 0)
    sizes = {each: dict(model.named_parameters())[each].numel() for each in models.prunable_kinds(model)}
    kinds = models.prunable_kinds(model)
    assert sum(sizes.values()) == pytest.approx(weights, rel=0.01)
    assert sum(size for each, size in sizes.items() if kinds[each] == "convolution") == pytest.approx(
        convolutions, rel=0.01
    )
    assert list(kinds.values()).count("output") == 1
    assert sizes[next(each for each, kind in kinds.items() if kind == "output")] % 10 == 0
    assert list(kinds) == sorted(kinds)
    assert model(torch.zeros(2, *shape)).shape == (2, 10)


def test_resnet_20_has_the_parameters_of_he_et_al():
    """0.27 M in table 6; 269,722 with shortcuts without weights, as in every public reproduction of option A."""
    model = models.build_model("resnet-20", CIFAR, 10, 0)
    assert sum(parameter.numel() for parameter in model.parameters()) == 269_722


def test_option_a_shortcuts_skip_pixels_and_add_zeros():
    block = models._Block(2, 4).eval()
    nn.init.zeros_(block.second.weight)
    images = torch.rand(1, 2, 4, 4)
    found = block(images)
    assert torch.equal(found[:, 1:3], images[:, :, ::2, ::2])
    assert not found[:, [0, 3]].any()


def test_gaussian_glorot():
    model = models.build_model("conv-2", (1, 8, 8), 10, 0)
    weights = dict(model.named_parameters())
    for name, fans in {"2.weight": 9 * (64 + 64), "6.weight": 1024 + 256}.items():
        values = weights[name].detach().double()
        deviation = (2 / fans) ** 0.5
        assert values.std().item() == pytest.approx(deviation, rel=0.02)
        assert values.mean().abs() < deviation * 5 / values.numel() ** 0.5
        assert (values / deviation).pow(4).mean().item() == pytest.approx(3, rel=0.06), "a normal distribution"
    assert not any(weights[name].any() for name in weights if name.endswith("bias"))


def test_weights_depend_on_seed_and_name_only():
    def weights(seed):
        torch.rand(3)  # whatever the global generator does
        return dict(models.build_model("lenet-300-100", (1, 4, 4), 10, seed).named_parameters())

    first, again, other = weights(1), weights(1), weights(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first if name.endswith("weight"))
    more_classes = dict(models.build_model("lenet-300-100", (1, 4, 4), 12, 1).named_parameters())
    assert torch.equal(first["1.weight"], more_classes["1.weight"])


def test_norms_start_as_the_identity():
    weights = models.initial_weights(models.build_model("resnet-20", CIFAR, 10, 0), 3)
    assert torch.equal(weights["first_norm.weight"], torch.ones(16))
    assert not weights["first_norm.bias"].any()


def test_bad_input_is_refused():
    with pytest.raises(UserError, match=r"'lenet' is unknown; use lenet-300-100, conv-2"):
        models.build_model("lenet", CIFAR, 10, 0)
    with pytest.raises(UserError, match="too small for 3 poolings"):
        models.build_model("conv-6", (1, 6, 6), 10, 0)
