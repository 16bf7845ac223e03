"""Examples to learn from, held in memory."""

from dataclasses import dataclass

import torch

from ltpipe.training.randomness import digest


@dataclass(frozen=True)
class Examples:
    """Inputs and their labels.

    Attributes:
        inputs: [examples, ...], images or tokens.
        labels: int64 [examples, ...], classes from 0; an example can have several, as text does.
    """

    inputs: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.labels)

    @property
    def majority(self) -> float:
        """Share of the most frequent label."""
        return int(self.labels.flatten().bincount().max()) / self.labels.numel()

    @property
    def digest(self) -> str:
        """SHA-256 of inputs and labels."""
        return digest({"inputs": self.inputs, "labels": self.labels})

    def to(self, device: torch.device) -> "Examples":
        """The same examples on a device."""
        return Examples(self.inputs.to(device), self.labels.to(device))
