"""The image models of the lottery-ticket papers, with weights that depend only on a seed.

Architectures and initialisation follow Frankle & Carbin 2019 (1803.03635), figure 2; ResNet-20 follows He et al. 2016
(1512.03385), section 4.2, with option A shortcuts, which have no weights.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

from ltpipe.runtime.errors import UserError
from ltpipe.training.levels import Kind
from ltpipe.training.randomness import generator

Shape = tuple[int, int, int]
"""Channels, height and width of an image."""


def lenet_300_100(shape: Shape, classes: int) -> nn.Module:
    """Fully connected: 300, 100 and `classes` units."""
    channels, height, width = shape
    return nn.Sequential(nn.Flatten(), *_fully_connected([channels * height * width, 300, 100, classes]))


def conv(blocks: int, shape: Shape, classes: int) -> nn.Module:
    """Conv-2, -4, -6: blocks of two 3x3 convolutions (64, 128, 256 channels) and pooling; then 256, 256, `classes`."""
    channels, height, width = shape
    layers: list[nn.Module] = []
    for block in range(blocks):
        for _ in range(2):
            layers += [nn.Conv2d(channels, 64 * 2**block, 3, padding=1), nn.ReLU()]
            channels = 64 * 2**block
        layers.append(nn.MaxPool2d(2))
    inputs = channels * (height >> blocks) * (width >> blocks)
    if not inputs:
        raise UserError(
            f"images of {height} x {width} pixels are too small for {blocks} poolings; use images of at least "
            f"{2**blocks} x {2**blocks}"
        )
    return nn.Sequential(*layers, nn.Flatten(), *_fully_connected([inputs, 256, 256, classes]))


class ResNet20(nn.Module):
    """Three stages of three blocks with 16, 32 and 64 channels, for CIFAR-sized images."""

    def __init__(self, shape: Shape, classes: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(shape[0], 16, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(16)
        widths = [16] * 4 + [32] * 3 + [64] * 3
        self.blocks = nn.Sequential(*(_Block(*pair) for pair in pairwise(widths)))
        self.output = nn.Linear(64, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits [images, classes]."""
        hidden = self.blocks(functional.relu(self.first_norm(self.first(images))))
        return self.output(hidden.mean((2, 3)))


class _Block(nn.Module):
    """Two convolutions and a shortcut that, where channels double, takes every other pixel and pads with zeros."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.stride, self.added = outputs // inputs, outputs - inputs
        self.first = nn.Conv2d(inputs, outputs, 3, self.stride, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(outputs)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = functional.relu(self.first_norm(self.first(images)))
        shortcut = images[:, :, :: self.stride, :: self.stride]
        shortcut = functional.pad(shortcut, (0, 0, 0, 0, self.added // 2, self.added - self.added // 2))
        return functional.relu(self.second_norm(self.second(hidden)) + shortcut)


MODELS: dict[str, Callable[[Shape, int], nn.Module]] = {
    "lenet-300-100": lenet_300_100,
    "conv-2": lambda shape, classes: conv(1, shape, classes),
    "conv-4": lambda shape, classes: conv(2, shape, classes),
    "conv-6": lambda shape, classes: conv(3, shape, classes),
    "resnet-20": ResNet20,
}
"""Functions that build a model from an image shape and a number of classes."""


def build_model(name: str, shape: Shape, classes: int, seed: int) -> nn.Module:
    """Build a model of `MODELS` in training mode, with the `initial_weights` of `seed`.

    Torch's global generator is left unchanged.

    Raises:
        UserError: there is no model of that name, or the images are too small for it.
    """
    if name not in MODELS:
        raise UserError(f"model '{name}' is unknown; use {', '.join(MODELS)}")
    with torch.random.fork_rng(devices=[]):  # torch's layers draw weights, which are replaced below
        model = MODELS[name](shape, classes)
    weights = initial_weights(model, seed)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            parameter.copy_(weights[parameter_name])
    return model


def initial_weights(model: nn.Module, seed: int) -> dict[str, torch.Tensor]:
    """Draw Gaussian Glorot weights: variance 2 / (fan-in + fan-out); biases are 0, normalisation scales are 1.

    Each tensor is drawn independently from (seed, its name), so adding a layer does not change the others.

    Args:
        model: gives names and shapes; it is not changed.
        seed: any integer.

    Returns:
        All parameters as new tensors, float32 on the CPU.
    """
    weights = {}
    for name, parameter in model.named_parameters():
        if parameter.dim() >= 2:
            fans = (parameter.shape[0] + parameter.shape[1]) * parameter[0, 0].numel()
            normal = torch.randn(parameter.shape, generator=generator(seed, "initial weights", name))
            weights[name] = normal * (2 / fans) ** 0.5
        else:
            weights[name] = torch.full(parameter.shape, float(name.endswith("weight")))
    return weights


def prunable_kinds(model: nn.Module) -> dict[str, Kind]:
    """Map the prunable tensors (weights of convolutions and fully connected layers) to kinds, in canonical order."""
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)}
    output = output_layer(model)
    kinds: dict[str, Kind] = {
        f"{name}.weight": "convolution" if isinstance(layer, nn.Conv2d) else "output" if layer is output else "hidden"
        for name, layer in layers.items()
    }
    return {name: kinds[name] for name in sorted(kinds, key=str.encode)}


def output_layer(model: nn.Module) -> nn.Module:
    """Return the last fully connected layer."""
    return [layer for layer in model.modules() if isinstance(layer, nn.Linear)][-1]


def _fully_connected(widths: list[int]) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return layers[:-1]
