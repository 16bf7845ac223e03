"""Small changes to weights that a robust ticket survives: noise, and rounding to few bits.

Both keep zeros zero, so a ticket stays as sparse as it was.
"""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Protocol

from ltpipe.checkpoints.manifest import Manifest
from ltpipe.pruning.layout import Layout
from ltpipe.runtime.determinism import stable_seed
from ltpipe.runtime.errors import UserError

if TYPE_CHECKING:  # code that only names perturbations must not import torch
    import torch

NAME = r"noise-(?:0\.\d*[1-9]|[1-9]\d*(?:\.\d*[1-9])?)|int[2-8]"
"""Names of perturbations, as a regular expression."""

_CHUNK = 1 << 22  # weights that are changed at a time


class Perturbation(Protocol):
    """Changes one weight tensor at a time."""

    def __call__(self, name: str, weight: "torch.Tensor", layout: Layout) -> "torch.Tensor":
        """Return a perturbed copy of a weight tensor, with the same dtype and device.

        Args:
            name: the tensor's name.
            weight: the weight tensor, of two or more dimensions.
            layout: the model's layout, which tells which dimensions are inputs.
        """
        ...


def perturbation_named(name: str, seed: int | None = None) -> Perturbation:
    """Return the perturbation called `name` in a configuration.

    Raises:
        UserError: there is no such perturbation, or noise has no seed.
    """
    if not re.fullmatch(NAME, name):
        raise UserError(f"perturbation '{name}' is unknown; use noise-X (X above 0, like 0.01) or int2 to int8")
    if not stochastic(name):
        return Rounding(int(name.removeprefix("int")))
    if seed is None:
        raise UserError(f"perturbation '{name}' needs a seed")
    return Noise(float(name.removeprefix("noise-")), seed)


def stochastic(name: str) -> bool:
    """Return whether a perturbation depends on its seed."""
    return name.startswith("noise-")


def perturbing(
    fetch: Callable[[str], "torch.Tensor"], perturbation: Perturbation, names: Collection[str], manifest: Manifest
) -> Callable[[str], "torch.Tensor"]:
    """Return a function that fetches tensors like `fetch`, and perturbs those in `names`."""
    layout = Layout.of(manifest)

    def perturbed(name: str) -> "torch.Tensor":
        weight = fetch(name)
        return perturbation(name, weight, layout) if name in names else weight

    return perturbed


@dataclass(frozen=True)
class Noise:
    """Independent Gaussian noise on every nonzero weight.

    Drawn on the CPU from a generator seeded with (seed, tensor name): the same on every device, in any order, and for
    a dense model and its tickets.

    Attributes:
        scale: standard deviation of the noise, as a fraction of the root mean square of the tensor's nonzero weights.
        seed: seed of the draw.
    """

    scale: float
    seed: int

    def __call__(self, name: str, weight: "torch.Tensor", layout: Layout) -> "torch.Tensor":  # noqa: ARG002
        """See `Perturbation`."""
        import torch

        generator = torch.Generator().manual_seed(stable_seed(self.seed, name) % 2**64)
        noisy = weight.clone(memory_format=torch.contiguous_format)
        flat = noisy.view(-1)
        deviation = self.scale * _root_mean_square(flat)
        for part in flat.split(_CHUNK):
            noise = torch.randn(len(part), generator=generator).to(weight.device)
            part.add_(noise.mul_(deviation).mul_(part != 0))
        return noisy


@dataclass(frozen=True)
class Rounding:
    """Symmetric quantisation of each output's weights to integers of `bits` bits, and back.

    The plain round-to-nearest baseline of the quantisation literature (Dettmers et al. 2022, 2208.07339, section 2:
    absmax): the step of an output is its largest magnitude / (2^(bits - 1) - 1), halves round to even.

    Attributes:
        bits: 2 to 8.
    """

    bits: int

    def __call__(self, name: str, weight: "torch.Tensor", layout: Layout) -> "torch.Tensor":
        """See `Perturbation`."""
        import torch

        count, first, *rest = layout.stack(name, tuple(weight.shape))
        rounded = torch.empty_like(weight, memory_format=torch.contiguous_format)
        stacks = (tensor.reshape(count, first, prod(rest)) for tensor in (rounded, weight))
        for result, matrix in zip(*stacks, strict=True):
            inputs = 0 if name in layout.inputs_first else 1
            largest = torch.maximum(matrix.amax(inputs, keepdim=True), matrix.amin(inputs, keepdim=True).neg())
            steps = largest.float().div_(2 ** (self.bits - 1) - 1)
            steps.masked_fill_(steps == 0, 1)  # an output with only zeros
            rows = max(1, _CHUNK * len(matrix) // matrix.numel())
            parts = zip(result.split(rows), matrix.split(rows), steps.expand_as(matrix).split(rows), strict=True)
            for target, part, step in parts:
                target.copy_(part.div(step).round_().mul_(step))
        return rounded


def _root_mean_square(flat: "torch.Tensor") -> "torch.Tensor":
    """Return the root mean square of the nonzero ones of [N] values, float32 scalar; chunks are added in float64."""
    import torch

    squares, count = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.int64)
    for part in flat.split(_CHUNK):
        squares += part.float().square().sum().cpu()
        count += part.count_nonzero().cpu()
    return (squares / count.clamp(min=1)).sqrt().float().to(flat.device)
