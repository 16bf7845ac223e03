"""Image classification with the models of the lottery-ticket papers."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import nn

from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.data.images import Pixels, Split, load_images
from ltpipe.training.examples import Examples
from ltpipe.training.levels import Kind
from ltpipe.training.models import build_model, output_layer, prunable_kinds
from ltpipe.training.task import ConfiguredTask


@dataclass(frozen=True)
class ImageTask(ConfiguredTask):
    """Images in memory, float32 [images, channels, height, width].

    Pixels are divided by 255, then normalised so that each channel of the *training* images has mean 0 and standard
    deviation 1.

    Attributes:
        model: one of `models.MODELS`.
        pixels: the images as stored.
        train, validation, test: the images, all normalised the same way.
    """

    model: str
    pixels: Split
    train: Examples
    validation: Examples
    test: Examples

    @classmethod
    def of(cls, model: str, pixels: Split) -> "ImageTask":
        """Normalise the images."""
        normalised = _normalised(pixels.train.images)
        return cls(model, pixels, *(_examples(getattr(pixels, part.name), normalised) for part in fields(pixels)))

    @classmethod
    def prepare(cls, model: str, source: str, validation: int, test: int, split_seed: int, key: str) -> "ImageTask":
        """Read and split images (`data.images.load_images`) and check that the model fits them."""
        task = cls.of(model, load_images(source, validation, test, split_seed, f"{key}.source"))
        task.build(0)
        return task

    @classmethod
    def load(cls, file: TensorFile, specification: Mapping[str, Any]) -> "ImageTask":
        """Read the pixels."""
        parts = {
            part.name: Pixels(file.array(f"{part.name}/images"), file.array(f"{part.name}/labels"))
            for part in fields(Split)
        }
        return cls.of(specification["model"], Split(**parts))

    def stored(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return the pixels and the model's name."""
        arrays: dict[str, np.ndarray] = {}
        for part in fields(self.pixels):
            pixels: Pixels = getattr(self.pixels, part.name)
            arrays |= {f"{part.name}/images": pixels.images, f"{part.name}/labels": pixels.labels}
        return arrays, {"model": self.model}

    @property
    def classes(self) -> int:
        """Largest label + 1."""
        return 1 + max(int(getattr(self.pixels, part.name).labels.max()) for part in fields(self.pixels))

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        channels, height, width = self.train.inputs.shape[1:]
        return channels, height, width

    def build(self, seed: int) -> nn.Module:
        """See `models.build_model`."""
        return build_model(self.model, self.shape, self.classes, seed)

    def logits(self, model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
        """Return logits per image, [images, classes]."""
        return model(inputs)

    def kinds(self, model: nn.Module) -> dict[str, Kind]:
        """Return the weights of convolutions, fully connected layers and the last of them."""
        return prunable_kinds(model)

    def output(self, model: nn.Module) -> nn.Module:
        """Return the last fully connected layer."""
        return output_layer(model)


def _normalised(images: np.ndarray) -> np.ndarray:
    """Return the normalised value of each pixel value in each channel, float32 [channels, 256].

    Mean and deviation come from integer sums, so the order of summation does not matter.
    """
    normalised = []
    for channel in range(images.shape[1]):
        counts = np.bincount(images[:, channel].ravel(), minlength=256)
        pixels, values = int(counts.sum()), np.arange(256)
        first, second = int(counts @ values), int(counts @ values**2)
        deviation = ((pixels * second - first**2) / pixels**2) ** 0.5 / 255 or 1.0
        normalised.append((np.arange(256) / 255 - first / pixels / 255) / deviation)
    return np.stack(normalised).astype(np.float32)


def _examples(pixels: Pixels, normalised: np.ndarray) -> Examples:
    channels = [values[pixels.images[:, channel]] for channel, values in enumerate(normalised)]
    return Examples(torch.from_numpy(np.stack(channels, 1)), torch.from_numpy(pixels.labels.astype(np.int64)))


TASK = ImageTask
