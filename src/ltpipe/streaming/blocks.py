"""Which arguments of a block carry the batch, found by experiment instead of guessed from shapes.

A probe sends two and then three sequences through the model with every block replaced by a recorder. A tensor whose
shape follows the number of sequences carries the batch; where one dimension grows by several rows a sequence (Bloom's
alibi, batch x heads), it is split in steps of that many rows.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten


class NotStreamableError(Exception):
    """The model's blocks cannot be run on a part of the batch; the message says why."""


@dataclass(frozen=True)
class BatchRule:
    """Where a tensor carries the batch: `rows` rows of dimension `dim` belong to each sequence."""

    dim: int
    rows: int

    def take(self, tensor: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """The rows of sequences `start` to `stop`, as a view."""
        return tensor.narrow(self.dim, start * self.rows, (stop - start) * self.rows)


BlockRules = tuple[BatchRule | None, ...]
"""One rule for each leaf of a block's (args, kwargs); None where a leaf is the same for every sequence."""


@contextmanager
def replaced_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Let `module` run `forward` instead of its own, without losing its identity or attributes."""
    module.forward = forward
    try:
        yield
    finally:
        del module.forward


def probe_blocks(blocks: nn.ModuleList, run: Callable[[int], None]) -> list[BlockRules]:
    """Find the rules of every block, in the order in which the model calls them.

    Args:
        blocks: the model's blocks; none of their weights is needed.
        run: sends the given number of sequences through the model.

    Raises:
        NotStreamableError: the blocks do not pass hidden states of one shape on to each other.
    """
    failure: Exception | None = None
    for as_tuple in (False, True):  # some architectures return (hidden_states, …) from a block
        try:
            two, three = (_record(blocks, run, sequences, as_tuple) for sequences in (2, 3))
        except Exception as error:  # whatever a model raises when its block returns something else
            failure = error
            continue
        if len(two) == len(three) > 0:
            return [
                tuple(_rule(a, b) for a, b in zip(first, second, strict=True))
                for first, second in zip(two, three, strict=True)
            ]
    raise NotStreamableError(f"its blocks do not pass on plain hidden states ({failure})")


def run_in_parts(
    block: Callable[..., Any], rules: BlockRules, sequences: int, micro_batch: int, args: tuple, kwargs: dict
) -> Any:
    """Call a block on `micro_batch` sequences at a time and join what it returns along the batch."""
    if micro_batch >= sequences:
        return block(*args, **kwargs)
    leaves, tree = tree_flatten((args, kwargs))
    parts = []
    for start in range(0, sequences, micro_batch):
        stop = min(start + micro_batch, sequences)
        taken = [
            leaf if rule is None else rule.take(leaf, start, stop) for leaf, rule in zip(leaves, rules, strict=True)
        ]
        part_args, part_kwargs = tree_unflatten(taken, tree)
        parts.append(block(*part_args, **part_kwargs))
    return tree_map(lambda *tensors: torch.cat(tensors) if torch.is_tensor(tensors[0]) else tensors[0], *parts)


def _record(
    blocks: nn.ModuleList, run: Callable[[int], None], sequences: int, as_tuple: bool
) -> list[Sequence[torch.Size | None]]:
    """Shapes of every tensor that each block is called with."""
    calls: list[Sequence[torch.Size | None]] = []
    shape: torch.Size | None = None

    def recorder(*args: Any, **kwargs: Any) -> Any:
        nonlocal shape
        hidden_states = args[0] if args else kwargs["hidden_states"]
        if shape is not None and hidden_states.shape != shape:
            raise NotStreamableError(f"hidden states change shape from {tuple(shape)} to {tuple(hidden_states.shape)}")
        shape = hidden_states.shape
        leaves, _ = tree_flatten((args, kwargs))
        calls.append([leaf.shape if torch.is_tensor(leaf) else None for leaf in leaves])
        return (hidden_states,) if as_tuple else hidden_states

    with ExitStack() as stack:
        for block in blocks:
            stack.enter_context(replaced_forward(block, recorder))
        run(sequences)
    return calls


def _rule(two: torch.Size | None, three: torch.Size | None) -> BatchRule | None:
    if two == three:
        return None
    if two is None or three is None or len(two) != len(three):
        raise NotStreamableError("a block's arguments change in kind with the number of sequences")
    (dim, *others) = [index for index, (a, b) in enumerate(zip(two, three, strict=True)) if a != b]
    rows = three[dim] - two[dim]
    if others or two[dim] != 2 * rows:
        raise NotStreamableError(f"an argument of shape {tuple(two)} for two sequences does not split by sequence")
    return BatchRule(dim, rows)
