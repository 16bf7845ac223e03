"""A pruned block of a model, to be trained against the dense one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from ltpipe.streaming.blocks import Span


@dataclass(frozen=True)
class PrunedBlock:
    """A block whose matrices are pruned, with what it gets and what it should give.

    Attributes:
        weights: its pruned matrices by name, in the dtype of the computation; they require gradients, and pruned
            weights are 0.
        kept: kept weights, bool in the shapes of `weights`.
        outputs: function from a span of sequences to the block's output for them, [sequences, tokens, width] in most
            models; its inputs are those in the model pruned so far.
        targets: function from a span to the block's output in the dense model, of the same shape.
        sequences: number of sequences.
    """

    weights: Mapping[str, torch.Tensor]
    kept: Mapping[str, torch.Tensor]
    outputs: Callable[[Span], torch.Tensor]
    targets: Callable[[Span], torch.Tensor]
    sequences: int
