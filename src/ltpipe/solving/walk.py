"""A walk that prunes each block with the inputs that it has behind the pruned blocks before it.

This is the order of the code of Wanda and SparseGPT: the inputs of all matrices of a block are observed in one pass of
the unpruned block, the matrices are solved, and the block runs once more with its new weights. To train a block too,
the batch contains all sequences twice: as they are in the model pruned so far, and as in the dense model.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from ltpipe.pruning.layout import Layout
from ltpipe.runtime.errors import UserError
from ltpipe.scoring.products import Products
from ltpipe.solving.algebra import gram_matrix
from ltpipe.solving.block import PrunedBlock
from ltpipe.streaming.blocks import Division, Span, hidden_states_of, passed_on, rule_of, take_part
from ltpipe.streaming.model import CausalModel

Values = Mapping[str, torch.Tensor]
"""Weights by name, in the dtype of the computation."""

TrainBlock = Callable[[Values, Values, Callable[[PrunedBlock], None]], Values]
"""Trains a block by a function, and returns its values afterwards; takes its pruned values and its kept weights."""


@dataclass(frozen=True)
class Observed:
    """The inputs of a block's weights.

    Attributes:
        grams: Gram matrices, float64 [matrices, inputs, inputs] on the CPU, by the weights' names.
        stages: the names, in the order in which the block uses them; those with the same inputs are together.
    """

    grams: Mapping[str, torch.Tensor]
    stages: Sequence[Sequence[str]]


ObserveBlock = Callable[[Values, Collection[str]], Observed]
"""Observes the inputs of the named weights of a block, some of whose weights have the given values and the others those
of the dense model."""

SolveBlock = Callable[[str, Collection[str], ObserveBlock, TrainBlock], Values]
"""Prunes weights of a block and returns their values. Takes the block's name, the weights' names, and functions that
observe and train the block."""


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
        self.stages: list[list[str]] = []
        self._placed = set[str]()
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
            rows = rows.to(torch.float32, copy=True)  # so that nothing else can change them
            same = self._last is not None and torch.equal(self._last[0], rows)
            if self._last is None or not same:
                self._last = rows, gram_matrix(rows).cpu()
            self.grams[name][matrix] += self._last[1]
            self._place_in_order(name, same)

    def _place_in_order(self, name: str, same: bool) -> None:
        """Put a name into the stages; `same` if its inputs are those of the product before."""
        if name not in self._placed:
            self._placed.add(name)
            self.stages[-1:] = [[*self.stages[-1], name]] if same else [*self.stages[-1:], [name]]


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
        input_ids: int64 [sequences, tokens], on any device.
        micro_batch: number of sequences that go through a block together.
        names: weights to prune, all in the blocks.
        solve: prunes a block.
        with_dense: whether the hidden states of the dense model are there too, for training.

    Raises:
        UserError: a block is used more than once.
    """
    turns, seen, layout = iter(division.rules), set[str](), Layout.of(model.manifest)
    parts, count = model.parts(len(input_ids), micro_batch), len(input_ids)
    input_ids = input_ids.to(model.device)

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
            # Single-threaded, because a fake accelerator works in no other thread.
            alone = torch.autograd.set_multithreading_enabled(False)
            with torch.enable_grad(), alone, model.block(name, dense | weights):
                by(PrunedBlock(weights, kept, forward, lambda span: along.take(targets, *span), count))
            return {each: weight.detach() for each, weight in weights.items()}

        def observe(values: Values, of: Collection[str]) -> Observed:
            grams = _Grams(layout, of, model.offload.name_of)
            with model.block(name, dense | _parameters(values)), grams:
                for span in parts:
                    forward(span)
            return Observed(grams.grams, grams.stages)

        if inside:
            pruned |= _parameters(solve(name, inside, observe, train))
        weights = (pruned, dense).__getitem__
        return model.run_block(name, own_forward, rules, division, parts, weights, 1 + with_dense, args, kwargs)

    with model.streaming(run):
        model.split.hidden_states(input_ids.repeat(2, 1) if with_dense else input_ids)


def _parameters(values: Values) -> dict[str, nn.Parameter]:
    return {name: nn.Parameter(each, requires_grad=False) for name, each in values.items()}
