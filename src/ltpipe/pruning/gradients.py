"""Scores from gradients, accumulated for one block of weights at a time and written as the blocks are done."""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
import torch

from ltpipe.checkpoints.tensorfile import tensor_writer
from ltpipe.runtime.errors import UserError
from ltpipe.streaming.backward import walk_gradients
from ltpipe.streaming.model import CausalModel

FORMAT = "1"


class Accumulator(Protocol):
    """Sums up what the gradients of one weight tensor say about its weights.

    Attributes:
        criterion: name of the score.
        per_sequence: whether it needs the gradients of single sequences.
    """

    criterion: ClassVar[str]
    per_sequence: ClassVar[bool]

    def __init__(self, shape: Sequence[int], device: torch.device) -> None: ...

    def add(self, weight: torch.Tensor, gradient: torch.Tensor) -> None:
        """Take the gradient of the summed loss of a micro-batch; it is as large and of the dtype of the weight."""
        ...

    def result(self) -> torch.Tensor:
        """Scores, float32, not negative; the accumulator is used up."""
        ...


AccumulatorType = Callable[[Sequence[int], torch.device], Accumulator]


class _Sum:
    """A float32 sum beside each weight; its magnitude is the score."""

    def __init__(self, shape: Sequence[int], device: torch.device) -> None:
        self._sum = torch.zeros(shape, dtype=torch.float32, device=device)

    def result(self) -> torch.Tensor:
        """Scores of the loss summed over all predicted tokens, in nats a unit of what was added."""
        return self._sum.abs_()


class Taylor(_Sum):
    """|sum of w·g|, the first-order change of the loss if the weight were zero (Molchanov et al. 2019, 1906.10771)."""

    criterion = "taylor"
    per_sequence = False

    def add(self, weight: torch.Tensor, gradient: torch.Tensor) -> None:
        """Add w·g, multiplied in float32."""
        self._sum.addcmul_(weight, gradient)


class GradientNorm(_Sum):
    """|sum of g|, the sensitivity of the loss to the weight, whatever its value."""

    criterion = "gradient"
    per_sequence = False

    def add(self, weight: torch.Tensor, gradient: torch.Tensor) -> None:  # noqa: ARG002
        """Add g."""
        self._sum.add_(gradient)


class Fisher(_Sum):
    """Mean of g² over sequences, the diagonal of the empirical Fisher information (Theis et al. 2018, 1801.05787)."""

    criterion = "fisher"
    per_sequence = True

    def __init__(self, shape: Sequence[int], device: torch.device) -> None:
        super().__init__(shape, device)
        self._sequences = 0

    def add(self, weight: torch.Tensor, gradient: torch.Tensor) -> None:  # noqa: ARG002
        """Add g², multiplied in float32."""
        self._sum.addcmul_(gradient, gradient)
        self._sequences += 1

    def result(self) -> torch.Tensor:
        """Scores in nats² per squared unit of the weight, of the loss summed over a sequence."""
        return self._sum.div_(self._sequences)


def gradient_scores(
    path: Path,
    model: CausalModel,
    input_ids: torch.Tensor,
    names: Collection[str],
    accumulator: type[Accumulator],
    micro_batch: int,
    chunk: int,
    sequences: str,
) -> None:
    """Score weights by their gradients, and write the scores of each block when it is done.

    The file is a safetensors file with one float32 tensor for each name, in canonical (byte) order.

    Args:
        path: of the file.
        model: whose weights are scored.
        input_ids: int64 [sequences, tokens].
        names: of the tensors to score, all in the blocks.
        accumulator: the criterion.
        micro_batch: sequences that go through a block together; a criterion that needs single sequences takes 1.
        chunk: tokens whose logits exist at the same time.
        sequences: SHA-256 of the file of the sequences.

    Raises:
        UserError: a score is infinite or not a number, or a tensor is outside the blocks.
    """
    outside = [name for name in names if not model.manifest.in_blocks(name)]
    if outside:
        raise UserError(
            f"criterion '{accumulator.criterion}' scores weights of blocks only; '{outside[0]}' is outside, "
            "use the preset linear or exclude it"
        )
    metadata = {
        "format": FORMAT,
        "kind": "scores",
        "criterion": accumulator.criterion,
        "checkpoint": model.manifest.fingerprint,
        "sequences": sequences,
    }
    ordered = sorted(names, key=str.encode)
    layout = {name: ("F32", tuple(model.manifest.tensors[name].shape)) for name in ordered}
    with tensor_writer(path, layout, metadata) as write:

        def deliver(name: str, scores: torch.Tensor) -> None:
            array = scores.numpy()
            if not np.isfinite(array).all():
                raise UserError(
                    f"{accumulator.criterion} of '{name}' is infinite or not a number; "
                    "compute with precision float32, or check the checkpoint"
                )
            write(name, [array])

        accumulate(model, input_ids, names, accumulator, allowed(accumulator, micro_batch), chunk, deliver)


def allowed(accumulator: type[Accumulator], micro_batch: int) -> int:
    """The micro-batch that a criterion can work with where `micro_batch` is wanted."""
    return 1 if accumulator.per_sequence else micro_batch


def accumulate(
    model: CausalModel,
    input_ids: torch.Tensor,
    names: Collection[str],
    make: AccumulatorType,
    micro_batch: int,
    chunk: int,
    deliver: Callable[[str, torch.Tensor], None],
) -> None:
    """Walk over the gradients and `deliver` the scores of each tensor, float32 on the CPU, when its block is done.

    Accumulators exist for one block at a time; for all blocks, if the model cannot be streamed.
    """
    walk_gradients(model, input_ids, micro_batch, chunk, names, _Accumulators(make, deliver))


class _Accumulators:
    """Gradients in, scores out."""

    def __init__(self, make: AccumulatorType, deliver: Callable[[str, torch.Tensor], None]) -> None:
        self._make, self._deliver = make, deliver
        self._running: dict[str, Accumulator] = {}

    def add(self, name: str, weight: torch.Tensor, gradient: torch.Tensor) -> None:
        """Pass a gradient to the accumulator of its weight."""
        if name not in self._running:
            self._running[name] = self._make(weight.shape, weight.device)
        self._running[name].add(weight, gradient)

    def finish(self, block: str) -> None:
        """Deliver what belongs to a block."""
        for name in sorted(self._running):
            if name.startswith(f"{block}."):
                self._deliver(name, self._running.pop(name).result().cpu())
