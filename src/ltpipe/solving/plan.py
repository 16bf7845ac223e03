"""Plans the memory of the solve stage."""

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import torch
from torch import nn

from ltpipe.checkpoints.manifest import Manifest
from ltpipe.evaluation.plan import BatchSizes, EvaluationPlanner, LabelledModel
from ltpipe.pruning.layout import Layout
from ltpipe.solving.block import PrunedBlock
from ltpipe.solving.solver import Solver, TrainingSolver
from ltpipe.solving.walk import ObserveBlock, TrainBlock, Values, solve_blocks
from ltpipe.streaming.offload import Fetch

SOLVING = "Gram matrices and solving"

_COPIES = 4
"""Float32 copies of a block's pruned weights while it is trained: the values, their gradients, Adam's two moments."""


@dataclass(frozen=True)
class SolvingBytes:
    """Main memory that pruning a block takes beside the walk.

    Attributes:
        observed: the Gram matrices of its weights, in float64.
        observing: the largest inputs of a micro-batch, twice, and their Gram matrix, in float32.
        solved: its weights as solved, in the dtype of the computation, and a byte for each that says if it is kept.
        solving: what solves the largest weight: in float64 the tensor twice, a matrix, its Gram matrix, and what the
            solver takes.
    """

    observed: int
    observing: int
    solved: int
    solving: int

    @property
    def peak(self) -> int:
        """The most at any time."""
        return self.observed + max(self.observing, self.solved + self.solving)


def solving_bytes(
    rule: type[Solver], options: Any, manifest: Manifest, names: Collection[str], dtype: torch.dtype, tokens: int
) -> SolvingBytes:
    """Return what pruning the named weights of a block takes.

    Args:
        rule: the solver.
        options: its options.
        manifest: the checkpoint's manifest, real or planned.
        names: the weights.
        dtype: dtype of the computation.
        tokens: tokens of a micro-batch.
    """
    layout = Layout.of(manifest)
    matrices, grams = rule.copies(options)
    observed = observing = solved = 0
    solving = 0.0
    for name in names:
        tensor = manifest.tensors[name]
        count, width = layout.stack(name, tensor.shape)[0], layout.columns(name, tensor.shape)
        observed += 8 * count * width * width
        observing = max(observing, 4 * (2 * tokens * width + width * width))
        solved += tensor.size * (dtype.itemsize + 1)
        of_matrix, of_gram = (1 + matrices) * tensor.size / count, (1 + grams) * width * width
        solving = max(solving, 8 * (2 * tensor.size + of_matrix + of_gram))
    return SolvingBytes(observed, observing, solved, ceil(solving))


class SolvePlanner(EvaluationPlanner):
    """Runs the walk of a solver on fake tensors.

    On the CPU, Gram matrices and solving are part of the peak; beside an accelerator they are `host_bytes`.

    Args:
        rule: the solver.
        options: its options.
        names: weights to prune.
        skeleton: the model's skeleton, in the dtype of the computation.
        manifest: the checkpoint's manifest, real or planned.
        dtype: dtype of the computation.
        accelerator: whether to plan for an accelerator rather than the CPU.
        streamed: whether one block of weights is in memory at a time.
    """

    what = "a solver's walk with all calibration sequences"

    def __init__(
        self,
        rule: type[Solver],
        options: Any,
        names: Collection[str],
        skeleton: nn.Module,
        manifest: Manifest,
        dtype: torch.dtype,
        accelerator: bool,
        streamed: bool,
    ) -> None:
        super().__init__(skeleton, manifest, (), dtype, accelerator, streamed)
        self._rule, self._options, self._names = rule, options, list(names)

    def smaller(self, sizes: BatchSizes, parts: Mapping[str, int]) -> BatchSizes | None:  # noqa: ARG002
        """See `EvaluationPlanner`; the hidden states of all sequences have to fit."""
        return replace(sizes, micro_batch=sizes.micro_batch // 2) if sizes.micro_batch > 1 else None

    def host_bytes(self, sizes: BatchSizes, length: int) -> int:
        """Return the peak bytes of main memory beside those of `peak`."""
        if self._device.type == "cpu":
            return 0
        blocks: defaultdict[str, list[str]] = defaultdict(list)
        for name in self._names:
            blocks[self._manifest.walked_block(name)].append(name)
        return max(self._bytes_of(names, sizes, length).peak for names in blocks.values())

    def _bytes_of(self, names: Collection[str], sizes: BatchSizes, length: int) -> SolvingBytes:
        return solving_bytes(self._rule, self._options, self._manifest, names, self._dtype, sizes.micro_batch * length)

    def _run(self, model: LabelledModel, fetch: Fetch, input_ids: torch.Tensor, sizes: BatchSizes) -> None:
        def solve(block: str, names: Collection[str], observe: ObserveBlock, train: TrainBlock) -> Values:  # noqa: ARG001
            needed = self._bytes_of(names, sizes, input_ids.shape[1])
            with model.counter.labelled(SOLVING):
                grams = torch.empty(needed.observed, dtype=torch.uint8)
                inputs = torch.empty(needed.observing, dtype=torch.uint8)
            observe({}, ())
            del inputs
            with model.counter.labelled(SOLVING):
                solved, solving = (torch.empty(size, dtype=torch.uint8) for size in (needed.solved, needed.solving))
            del solving
            values = {name: fetch(name) for name in names}
            if issubclass(self._rule, TrainingSolver):
                kept = {
                    name: torch.empty(each.shape, dtype=torch.bool, device=each.device) for name, each in values.items()
                }
                values = dict(train(values, kept, self._step))
            del grams, solved
            return values

        division = model.divide(input_ids.shape[1])
        if division is None:  # which is refused later
            return super()._run(model, fetch, input_ids, sizes)
        trains = issubclass(self._rule, TrainingSolver)
        return solve_blocks(model, division, input_ids, sizes.micro_batch, self._names, solve, trains)

    def _step(self, block: PrunedBlock) -> None:
        copies = [
            torch.empty(each.shape, device=each.device) for each in block.weights.values() for _ in range(_COPIES)
        ]
        span = (0, min(self._options.batch, block.sequences))
        error = (block.outputs(span) - block.targets(span)).float().square().mean()
        if error.requires_grad:  # blocks that are like others are left out of a plan
            error.backward()
        del copies


def forward_passes(rule: type[Solver], options: Any) -> int:
    """Return the time of a solver's walk in forward passes of all calibration sequences, without solving.

    A block runs twice. To train it, it also runs twice in the dense model, and each epoch takes as long as three
    passes.
    """
    return 4 + 3 * options.epochs if issubclass(rule, TrainingSolver) else 2
