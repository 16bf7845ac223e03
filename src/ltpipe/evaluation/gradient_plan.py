"""What gradient scores will take, found by accumulating them on tensors without contents."""

from collections.abc import Collection, Sequence
from functools import partial

import torch
from torch import nn

from ltpipe.checkpoints.manifest import Manifest
from ltpipe.evaluation.plan import BatchSizes, EvaluationPlanner, LabelledModel
from ltpipe.pruning.gradients import Accumulator, accumulate, allowed
from ltpipe.runtime.simulation import ByteCounter

GRADIENTS, ACCUMULATORS = "gradients", "accumulators"


class GradientPlanner(EvaluationPlanner):
    """Runs the walk of `gradient_scores` on fake tensors.

    On an accelerator, the kept inputs of the blocks and the finished scores lie on the host, and are not counted; on
    the CPU they are, for there the host is the device.

    Args:
        skeleton: of the model, in the dtype to compute in; it is not changed.
        manifest: of the checkpoint, real or foreseen.
        names: of the tensors to score.
        accumulator: the criterion.
        masked: names of the tensors that come with a mask.
        dtype: to compute in.
        accelerator: whether to plan for one, or for the CPU.
        streamed: one block of weights at a time.
    """

    def __init__(
        self,
        skeleton: nn.Module,
        manifest: Manifest,
        names: Collection[str],
        accumulator: type[Accumulator],
        masked: Collection[str],
        dtype: torch.dtype,
        accelerator: bool,
        streamed: bool = True,
    ) -> None:
        super().__init__(skeleton, manifest, masked, dtype, accelerator, streamed)
        self._names, self._accumulator = frozenset(names), accumulator

    def _run(self, model: LabelledModel, input_ids: torch.Tensor, sizes: BatchSizes) -> None:
        micro_batch = allowed(self._accumulator, sizes.micro_batch)
        make = partial(_Labelled, model.counter, self._accumulator)
        accumulate(model, input_ids, self._names, make, micro_batch, sizes.chunk, lambda *_: None)


class _Labelled:
    """An accumulator that is counted as such, and its gradients as gradients."""

    def __init__(
        self, counter: ByteCounter, make: type[Accumulator], shape: Sequence[int], device: torch.device
    ) -> None:
        self._counter = counter
        with counter.labelled(ACCUMULATORS):
            self._inner = make(shape, device)

    def add(self, weight: torch.Tensor, gradient: torch.Tensor) -> None:
        self._counter.relabel(gradient, GRADIENTS)
        with self._counter.labelled(ACCUMULATORS):
            self._inner.add(weight, gradient)

    def result(self) -> torch.Tensor:
        with self._counter.labelled(ACCUMULATORS):
            return self._inner.result()
