"""Plans a score stage's memory by running its walk on tensors without contents."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ltpipe.checkpoints.manifest import Manifest
from ltpipe.evaluation.plan import BLOCK, LOGITS, OUTSIDE, BatchSizes, EvaluationPlanner, LabelledModel
from ltpipe.runtime.fake_device import ByteCounter
from ltpipe.scoring.criterion import Criterion
from ltpipe.scoring.streamed import ChangingFetch, StreamedSubject
from ltpipe.scoring.subject import Accumulator, AccumulatorType, Deliver
from ltpipe.streaming.head import Objective, next_token_loss
from ltpipe.streaming.offload import Fetch

GRADIENTS, ACCUMULATORS = "gradients", "accumulators"


class ScorePlanner(EvaluationPlanner):
    """Runs a criterion's `walk` on fake tensors.

    With an accelerator, the kept inputs of the blocks and the finished scores are on the host and are not counted. On
    the CPU they are counted, since the host is the device.

    Args:
        skeleton: the model's skeleton, in the dtype of the computation; it is not changed.
        manifest: the checkpoint's manifest, real or planned.
        names: names of the tensors to score.
        criterion: the criterion to plan for.
        dtype: dtype of the computation.
        accelerator: whether to plan for an accelerator rather than the CPU.
        streamed: whether one block of weights is in memory at a time.
        kept: bytes of weights that a device keeps all the time.
        options: the criterion's options; None takes its defaults.
    """

    what = "scoring"

    def __init__(
        self,
        skeleton: nn.Module,
        manifest: Manifest,
        names: Collection[str],
        criterion: type[Criterion],
        dtype: torch.dtype,
        accelerator: bool,
        streamed: bool = True,
        kept: int = 0,
        options: Any = None,
    ) -> None:
        super().__init__(skeleton, manifest, (), dtype, accelerator, streamed, kept=kept)
        self._names, self._criterion = sorted(names, key=str.encode), criterion
        self._options = criterion.options() if options is None else options

    def smaller(self, sizes: BatchSizes, parts: Mapping[str, int]) -> BatchSizes | None:
        """Return the next smaller sizes: all sequences stay one batch, and some criteria fix the micro-batch."""
        return smaller_scored(sizes, parts, self._criterion)

    def _fetch(self, counter: ByteCounter) -> Fetch:
        return _LabelledChanges(super()._fetch(counter), counter, self._manifest)

    def _run(self, model: LabelledModel, fetch: Fetch, input_ids: torch.Tensor, sizes: BatchSizes) -> None:
        assert isinstance(fetch, ChangingFetch)  # the result of `_fetch`
        self._criterion.walk(_PlannedSubject(model, fetch, self._names, input_ids, sizes, fetch, Path(), self._options))


def smaller_scored(sizes: BatchSizes, parts: Mapping[str, int], criterion: type[Criterion]) -> BatchSizes | None:
    """Return the next smaller sizes for a score, given `parts`, the bytes at the peak; None if there are none."""
    if LOGITS in parts and sizes.chunk > 1:
        return replace(sizes, chunk=sizes.chunk // 2)
    if LOGITS not in parts and sizes.micro_batch > 1 and criterion.batch is None:
        return replace(sizes, micro_batch=sizes.micro_batch // 2)
    return None


class _LabelledChanges(ChangingFetch):
    """Counts changed weights as weights."""

    def __init__(self, fetch: Fetch, counter: ByteCounter, manifest: Manifest) -> None:
        super().__init__(fetch)
        self._counter, self._manifest = counter, manifest

    def __call__(self, name: str) -> torch.Tensor:
        values = self._fetch(name)
        if self.change is None:
            return values
        with self._counter.labelled(BLOCK if self._manifest.in_blocks(name) else OUTSIDE):
            return self.change(name, values)


class _PlannedSubject(StreamedSubject):
    """Counts accumulators and gradients separately."""

    _model: LabelledModel

    def gradients(self, make: AccumulatorType, deliver: Deliver, objective: Objective = next_token_loss) -> None:
        counter = self._model.counter

        def labelled(shape: Sequence[int], device: torch.device, tokens: float) -> Accumulator:
            with counter.labelled(ACCUMULATORS):
                return _Labelled(counter, make(shape, device, tokens))

        super().gradients(labelled, deliver, objective)


class _Labelled:
    """An accumulator whose memory is counted."""

    def __init__(self, counter: ByteCounter, inner: Accumulator) -> None:
        self._counter, self._inner = counter, inner

    def add(self, weight: torch.Tensor, gradient: torch.Tensor) -> None:
        self._counter.relabel(gradient, GRADIENTS)
        with self._counter.labelled(ACCUMULATORS):
            self._inner.add(weight, gradient)

    def result(self) -> torch.Tensor:
        with self._counter.labelled(ACCUMULATORS):
            return self._inner.result()
