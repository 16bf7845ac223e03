"""A walk that prunes each block with the inputs that it has behind the pruned blocks before it.

This is the order of the code of Wanda and SparseGPT: the inputs of all matrices of a block are observed in one pass of
the unpruned block, the matrices are solved, and the block runs once more with its new weights. To train a block too,
the batch contains all sequences twice: as they are in the model pruned so far, and as in the dense model.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from ltpipe.pruning.layout import Layout
from ltpipe.runtime.errors import UserError
from ltpipe.scoring.products import Products
from ltpipe.solving.block import PrunedBlock
from ltpipe.streaming.blocks import Division, Span, hidden_states_of, passed_on, rule_of, take_part
from ltpipe.streaming.model import CausalModel

Values = Mapping[str, torch.Tensor]
"""Weights by name, in the dtype of the computation."""

TrainBlock = Callable[[Values, Values, Callable[[PrunedBlock], None]], Values]
"""Trains a block by a function, and returns its values afterwards; takes its pruned values and its kept weights."""

Grams = Mapping[str, torch.Tensor]
"""Gram matrices of the inputs of weights, float64 [matrices, inputs, inputs], by the weights' names."""

SolveBlock = Callable[[str, Collection[str], Callable[[], Grams], TrainBlock], Values]
"""Prunes weights of a block and returns their values. Takes the block's name, the weights' names, a function that
observes their Gram matrices, and one that trains the block."""


class _Grams(Products):
    """Sums X^T X of the inputs of weights.

    Products are computed in float32 and added up in float64. Weights that get the same inputs one after the other, such
    as those of queries, keys and values, share a product.

    Attributes:
        grams: name to float64 [matrices, inputs, inputs] on the CPU.
    """

    def __init__(self, layout: Layout, names: Collection[str], name_of: Callable[[torch.Tensor], str | None]) -> None:
        super().__init__(layout, names, name_of)
        self.grams = {
            name: torch.zeros(count, width, width, dtype=torch.float64)
            for name, (count, width) in self.widths().items()
        }
        self._last: tuple[torch.Tensor, torch.Tensor] | None = None

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
            self.grams[name][matrix] += self._product(rows.to(torch.float32, copy=True))

    def _product(self, rows: torch.Tensor) -> torch.Tensor:
        """Return X^T X on the CPU, of inputs [tokens, inputs] that nothing else can change."""
        if self._last is None or not torch.equal(self._last[0], rows):
            self._last = rows, (rows.T @ rows).cpu()
        return self._last[1]


@torch.no_grad()
def solve_blocks(
    model: CausalModel,
    division: Division,
    input_ids: torch.Tensor,
    micro_batch: int,
    names: Collection[str],
    solve: SolveBlock,
    with_dense: bool = False,
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
        with_dense: whether the hidden states of the dense model are there too, for training.

    Raises:
        UserError: a block is used more than once.
    """
    turns, seen, layout = iter(division.rules), set[str](), Layout.of(model.manifest)
    parts, count = model.parts(len(input_ids), micro_batch), len(input_ids)

    def run(name: str, own_forward: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
        if name in seen:
            raise UserError(f"solvers cannot prune block '{name}', because the model uses it more than once")
        seen.add(name)
        rules, dense = next(turns), model.fetch_block(name)
        pruned = dict(dense)
        inside = [each for each in names if each.startswith(f"{name}.")]
        leaves, tree = tree_flatten((args, kwargs))

        def forward(span: Span) -> torch.Tensor:
            part_args, part_kwargs = tree_unflatten(take_part(leaves, rules, *span), tree)
            return passed_on(own_forward(*part_args, **part_kwargs))

        def train(values: Values, kept: Values, by: Callable[[PrunedBlock], None]) -> Values:
            along = rule_of(hidden_states_of(args, kwargs), leaves, rules, 2 * count)
            targets: torch.Tensor | None = None
            with model.block(name, dense):
                for start, stop in parts:
                    part = forward((count + start, count + stop))
                    targets = along.room_for(part, count) if targets is None else targets
                    along.take(targets, start, stop).copy_(part)
            assert targets is not None  # there is a sequence
            weights = {each: nn.Parameter(values[each].clone()) for each in values}
            with torch.enable_grad(), model.block(name, dense | weights):
                by(PrunedBlock(weights, kept, forward, lambda span: along.take(targets, *span), count))
            return {each: weight.detach() for each, weight in weights.items()}

        def observe() -> Grams:
            grams = _Grams(layout, inside, model.offload.name_of)
            with model.block(name, dense), grams:
                for span in parts:
                    forward(span)
            return grams.grams

        if inside:
            solved = solve(name, inside, observe, train)
            pruned |= {each: nn.Parameter(values, requires_grad=False) for each, values in solved.items()}
        weights = (pruned, dense).__getitem__
        return model.run_block(name, own_forward, rules, division, parts, weights, 1 + with_dense, args, kwargs)

    with model.streaming(run):
        model.split.hidden_states(input_ids.repeat(2, 1) if with_dense else input_ids)
