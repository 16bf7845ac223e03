"""A walk that prunes each block with the inputs that it has behind the pruned blocks before it.

This is the order of the code of Wanda and SparseGPT: the inputs of all matrices of a block are observed in one pass of
the unpruned block, the matrices are solved, and the block runs once more with its new weights.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from ltpipe.pruning.layout import Layout
from ltpipe.runtime.errors import UserError
from ltpipe.scoring.products import Products
from ltpipe.streaming.blocks import Division, run_in_parts, take_part
from ltpipe.streaming.model import CausalModel

SolveBlock = Callable[[Mapping[str, torch.Tensor]], Mapping[str, torch.Tensor]]
"""Maps the Gram matrices of a block's weights, float64 [matrices, inputs, inputs], to the values of the weights that
it has pruned, in the dtype of the computation."""


class _Grams(Products):
    """Sums X^T X of the inputs of weights.

    Products are computed in float32 and added up in float64.

    Attributes:
        grams: name to float64 [matrices, inputs, inputs] on the CPU.
    """

    def __init__(self, layout: Layout, names: Collection[str], name_of: Callable[[torch.Tensor], str | None]) -> None:
        super().__init__(layout, names, name_of)
        self.grams = {
            name: torch.zeros(count, width, width, dtype=torch.float64)
            for name, (count, width) in self.widths().items()
        }

    def take(
        self, name: str, matrices: torch.Tensor, places: slice, inputs: torch.Tensor, ends: torch.Tensor | None
    ) -> None:
        """See `Products`."""
        if places != slice(0, self.grams[name].shape[-1]):
            raise UserError(f"'{name}' is multiplied in parts, which solvers cannot do; exclude it (prunable.exclude)")
        if ends is None:
            groups = list(inputs.reshape(len(matrices), -1, inputs.shape[-1]))
        else:
            stops = ends.tolist()
            groups = [inputs[start:stop] for start, stop in zip([0, *stops], stops, strict=False)]
        for matrix, rows in zip(matrices.tolist(), groups, strict=True):
            rows = rows.float()
            self.grams[name][matrix] += (rows.T @ rows).cpu()


@torch.inference_mode()
def solve_blocks(
    model: CausalModel,
    division: Division,
    input_ids: torch.Tensor,
    micro_batch: int,
    names: Collection[str],
    solve: SolveBlock,
) -> None:
    """Send calibration sequences through a model, and prune each block on the way.

    One block of weights, its Gram matrices and the hidden states of all sequences are in memory at a time.

    Args:
        model: the dense model, streamed.
        division: how its blocks run on a part of the batch.
        input_ids: int64 [sequences, tokens].
        micro_batch: number of sequences that go through a block together.
        names: weights to prune, all in the blocks.
        solve: prunes a block.

    Raises:
        UserError: a block is used more than once.
    """
    turns, seen = iter(division.rules), set[str]()
    parts, layout = model.parts(len(input_ids), micro_batch), Layout.of(model.manifest)

    def run(name: str, own_forward: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
        if name in seen:
            raise UserError(f"solvers cannot prune block '{name}', because the model uses it more than once")
        seen.add(name)
        rules, weights = next(turns), model.fetch_block(name)
        inside = [each for each in names if each.startswith(f"{name}.")]
        if inside:
            grams = _Grams(layout, inside, model.offload.name_of)
            leaves, tree = tree_flatten((args, kwargs))
            with model.block(name, weights), grams:
                for start, stop in parts:
                    part_args, part_kwargs = tree_unflatten(take_part(leaves, rules, start, stop), tree)
                    own_forward(*part_args, **part_kwargs)
            weights |= {each: _parameter(values) for each, values in solve(grams.grams).items()}
        with model.block(name, weights):
            return run_in_parts(own_forward, rules, division.in_place, parts, args, kwargs)

    with model.streaming(run):
        model.split.hidden_states(input_ids)


def _parameter(values: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(values, requires_grad=False)
