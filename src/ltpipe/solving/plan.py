"""Plans the memory of the solve stage."""

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import nn

from ltpipe.checkpoints.manifest import Manifest
from ltpipe.evaluation.plan import BatchSizes, EvaluationPlanner, LabelledModel
from ltpipe.pruning.layout import Layout
from ltpipe.solving.block import PrunedBlock
from ltpipe.solving.solver import Solver, TrainingSolver
from ltpipe.solving.walk import TrainBlock, Values, solve_blocks
from ltpipe.streaming.offload import Fetch

_COPIES = 4
"""Float32 copies of a block's pruned weights while it is trained: the values, their gradients, Adam's two moments."""


class _TrainingPlanner(EvaluationPlanner):
    """Runs the walk of a solver that trains blocks on fake tensors.

    Args:
        names: weights to prune.
        batch: sequences in a step.
        skeleton: as for `EvaluationPlanner`.
        manifest: as there.
        dtype: as there.
        accelerator: as there.
        streamed: as there.
    """

    what = "reconstruction"

    def __init__(
        self,
        names: Collection[str],
        batch: int,
        skeleton: nn.Module,
        manifest: Manifest,
        dtype: torch.dtype,
        accelerator: bool,
        streamed: bool,
    ) -> None:
        super().__init__(skeleton, manifest, (), dtype, accelerator, streamed)
        self._names, self._batch = list(names), batch

    def _run(self, model: LabelledModel, fetch: Fetch, input_ids: torch.Tensor, sizes: BatchSizes) -> None:
        def step(block: PrunedBlock) -> None:
            copies = [
                torch.empty(each.shape, device=each.device) for each in block.weights.values() for _ in range(_COPIES)
            ]
            span = (0, min(self._batch, block.sequences))
            error = (block.outputs(span) - block.targets(span)).float().square().mean()
            if error.requires_grad:  # blocks that are like others are left out of a plan
                error.backward()
            del copies

        def solve(block: str, names: Collection[str], observe: object, train: TrainBlock) -> Values:  # noqa: ARG001
            values = {name: fetch(name) for name in names}
            return train(
                values,
                {name: torch.empty(each.shape, dtype=torch.bool, device=each.device) for name, each in values.items()},
                step,
            )

        division = model.divide(input_ids.shape[1])
        if division is None:  # which is refused later
            return super()._run(model, fetch, input_ids, sizes)
        return solve_blocks(model, division, input_ids, sizes.micro_batch, self._names, solve, True)


def solve_planner(
    rule: type[Solver],
    options: Any,
    names: Collection[str],
    skeleton: nn.Module,
    manifest: Manifest,
    dtype: torch.dtype,
    accelerator: bool,
    streamed: bool,
) -> EvaluationPlanner:
    """Return the planner of a solver's walk, without Gram matrices and solving (`solving_bytes`).

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
    if issubclass(rule, TrainingSolver):
        return _TrainingPlanner(names, options.batch, skeleton, manifest, dtype, accelerator, streamed)
    return EvaluationPlanner(skeleton, manifest, (), dtype, accelerator, streamed)


def forward_passes(rule: type[Solver], options: Any) -> int:
    """Return the time of a solver's walk in forward passes of all calibration sequences, without solving.

    A block runs twice. To train it, it also runs twice in the dense model, and each epoch takes as long as three
    passes.
    """
    return 4 + 3 * options.epochs if issubclass(rule, TrainingSolver) else 2


def solving_bytes(manifest: Manifest, layout: Layout, names: Sequence[str], tokens: int) -> int:
    """Return the peak bytes of main memory for Gram matrices and solving, beside those of a forward pass.

    These are the Gram matrices of a block, and either what solves one weight (in float64 its matrix in five and the
    Gram matrix in four versions, and the tensor in two) or what observes it: two of a micro-batch's inputs, and their
    Gram matrix, in float32.

    Args:
        manifest: the checkpoint's manifest, real or planned.
        layout: its layout.
        names: weights to prune.
        tokens: tokens of a micro-batch.
    """
    of_block: dict[str, int] = {}
    largest = 0
    for name in names:
        shape = manifest.tensors[name].shape
        count, width = layout.stack(name, shape)[0], layout.columns(name, shape)
        block = manifest.walked_block(name)
        of_block[block] = of_block.get(block, 0) + 8 * count * width * width
        size = manifest.tensors[name].size
        solving = 8 * (5 * size // count + 4 * width * width) + 8 * size
        largest = max(largest, solving, 4 * (2 * tokens * width + width * width))
    return max(of_block.values()) + largest
