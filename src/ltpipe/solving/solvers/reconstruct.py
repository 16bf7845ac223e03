"""Reconstruction: the weights that a solver keeps, trained block by block against the dense model."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ltpipe.runtime.errors import UserError
from ltpipe.solving.solver import Copies, TrainingOptions, TrainingSolver, check_after, copies_of, pruned_by

if TYPE_CHECKING:
    import numpy as np
    import torch

    from ltpipe.solving.block import PrunedBlock
    from ltpipe.solving.pattern import Pattern


@dataclass(frozen=True)
class Options(TrainingOptions):
    """Options of reconstruct.

    Attributes:
        after: what prunes the matrices before: a solver with its default options, or magnitude.
        rate: first learning rate, as a fraction of the root mean square of a matrix's kept weights.
    """

    after: str = "sparsegpt"
    rate: float = 0.005

    def __post_init__(self) -> None:
        """Raise UserError if a value is not allowed."""
        super().__post_init__()
        check_after(self.after)
        if not 0 < self.rate < math.inf:
            raise UserError(f"rate: {self.rate} is not allowed; use a number above 0")


class Reconstruct(TrainingSolver):
    """Each pruned block is trained to give what the dense block gives in the dense model.

    As in "A free lunch in LLM compression" (2510.14444), with the inputs of the model pruned so far and the outputs of
    the dense one. The squared error is minimised by Adam with a cosine schedule; masks stay as they are.
    """

    options = Options

    @staticmethod
    def solve(
        weight: "np.ndarray", gram: "np.ndarray", pattern: "Pattern", options: Options
    ) -> tuple["np.ndarray", "np.ndarray"]:
        """See `Solver`."""
        return pruned_by(options.after, weight, gram, pattern, overwrite=True)

    @staticmethod
    def copies(options: Options) -> Copies:
        """See `Solver`."""
        return copies_of(options.after)

    @staticmethod
    def reconstruct(block: "PrunedBlock", options: Options) -> None:
        """See `Solver`."""
        import torch

        from ltpipe.streaming.blocks import parts_of

        # In float32, for steps below the resolution of bfloat16, and in units of their root mean square.
        scales, masters = {}, {}
        for name, weight in block.weights.items():
            values = weight.detach().float()
            scales[name] = (_squares(values) / block.kept[name].sum().clamp(min=1)).sqrt().clamp(min=1e-30)
            masters[name] = values / scales[name]
        optimizer = torch.optim.Adam(masters.values(), lr=options.rate, betas=(0.9, 0.95))
        parts = parts_of(block.sequences, options.batch)
        steps = options.epochs * len(parts)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / steps))
        )
        for step in range(steps):
            span = parts[step % len(parts)]
            targets = block.targets(span).float()
            error = _squares(block.outputs(span).float() - targets) / _squares(targets)
            error.backward()
            for name, weight in block.weights.items():
                if weight.grad is not None:  # an expert without tokens has none
                    # Zero for pruned weights, whose moments and values therefore stay 0.
                    masters[name].grad = weight.grad.float() * scales[name] * block.kept[name]
                    weight.grad = None
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            with torch.no_grad():
                for name, weight in block.weights.items():
                    weight.copy_(masters[name] * scales[name])


def _squares(values: "torch.Tensor") -> "torch.Tensor":
    """Return the sum of squares, one dimension after the other: a sum over all at once depends on the threads."""
    found = values.square()
    while found.dim():
        found = found.sum(-1)
    return found


SOLVER = Reconstruct
