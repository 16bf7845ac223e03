"""How to run a model's blocks on a part of the batch, found by experiment instead of guessed from shapes.

A probe sends two and then three sequences through the model with every block replaced by a recorder. A tensor whose
shape depends on the number of sequences carries the batch; if one dimension grows by several rows per sequence (Bloom's
alibi, batch x heads), it is split in steps of that many rows. The recorder also overwrites the hidden states it was
given with NaN, after copying them: if the model's output is unaffected, the model only passes them from block to block,
and a block may overwrite them with its result.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from ltpipe.runtime.device import is_out_of_memory


class NotStreamableError(Exception):
    """The model's blocks cannot be run on a part of the batch; the message says why."""


@dataclass(frozen=True)
class BatchRule:
    """Where a tensor carries the batch: `rows` rows of dimension `dim` belong to each sequence."""

    dim: int
    rows: int

    def take(self, tensor: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """Return the rows of sequences `start` to `stop`, as a view."""
        return tensor.narrow(self.dim, start * self.rows, (stop - start) * self.rows)

    def fits(self, tensor: torch.Tensor, sequences: int) -> bool:
        """Return whether the tensor's shape fits this number of sequences."""
        return tensor.dim() > self.dim and tensor.shape[self.dim] == sequences * self.rows

    def room_for(self, part: torch.Tensor, sequences: int) -> torch.Tensor:
        """Return an empty tensor for this number of sequences, of which `part` is some."""
        return part.new_empty((*part.shape[: self.dim], sequences * self.rows, *part.shape[self.dim + 1 :]))


@dataclass(frozen=True)
class SameRule:
    """A tensor whose shape does not depend on the number of sequences: all sequences share it."""

    shape: torch.Size

    def fits(self, tensor: torch.Tensor, sequences: int) -> bool:  # noqa: ARG002
        """Return whether the tensor has the expected shape; a mask that only some tokens require has another."""
        return tensor.shape == self.shape

    def take(self, tensor: torch.Tensor, start: int, stop: int) -> torch.Tensor:  # noqa: ARG002
        """Return the tensor itself."""
        return tensor


Span = tuple[int, int]
"""Start and stop of a part."""


def parts_of(total: int, size: int) -> list[Span]:
    """Split `total` into parts of `size`; the last one may be smaller."""
    return [(start, min(start + size, total)) for start in range(0, total, size)]


BlockRules = tuple[BatchRule | SameRule | None, ...]
"""One rule for each leaf of a block's (args, kwargs); None for leaves that are not tensors."""


@contextmanager
def replaced_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Make `module` run `forward` instead of its own, without losing its identity or attributes."""
    before = module.__dict__.get("forward")  # a wrapper from elsewhere, for example accelerate
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before


@dataclass(frozen=True)
class Division:
    """How to run a model's blocks in parts.

    Attributes:
        rules: the rules of each call of a block, in call order.
        in_place: whether a block's result may overwrite its input.
        as_tuple: whether the model expects a block's hidden states as the first element of a tuple.
    """

    rules: list[BlockRules]
    in_place: bool
    as_tuple: bool


def probe_blocks(blocks: nn.ModuleList, run: Callable[[int], torch.Tensor]) -> Division:
    """Find out how a model calls its blocks.

    Args:
        blocks: the model's blocks; their weights are not needed.
        run: sends the given number of sequences through the model and returns the final hidden states.

    Raises:
        NotStreamableError: the blocks do not pass on hidden states of one shape.
    """
    failure: Exception | None = None
    for as_tuple in (False, True):  # some architectures return (hidden_states, …) from a block
        try:
            rules, final = find_rules(blocks, run, as_tuple)
            return Division(rules, bool(final.isfinite().all()), as_tuple)
        except Exception as error:  # models raise anything when a block returns something else
            if is_out_of_memory(error):
                raise  # the whole model would need even more
            failure = failure or error
    raise NotStreamableError(f"its blocks do not pass on plain hidden states ({_line(failure)})")


def find_rules(
    blocks: nn.ModuleList, run: Callable[[int], torch.Tensor], as_tuple: bool
) -> tuple[list[BlockRules], torch.Tensor]:
    """Return the rules of every call of a block, and the final hidden states after the blocks' inputs were overwritten.

    Raises:
        NotStreamableError: the calls do not scale with the number of sequences.
    """
    (two, final), (three, _) = (_record(blocks, run, sequences, as_tuple) for sequences in (2, 3))
    if not len(two) == len(three) > 0:
        raise NotStreamableError("how often it calls its blocks depends on the number of sequences, or it never does")
    rules = [
        tuple(_rule(a, b) for a, b in zip(first, second, strict=True)) for first, second in zip(two, three, strict=True)
    ]
    return rules, final


class _BlockReached(Exception):
    """Stops a model at its first block."""


def blocks_reached(blocks: nn.ModuleList, run: Callable[[int], torch.Tensor]) -> bool:
    """Return whether a sequence reaches the first block."""

    def stop(*_: Any, **__: Any) -> None:
        raise _BlockReached

    with ExitStack() as stack:
        for block in blocks:
            stack.enter_context(replaced_forward(block, stop))
        try:
            run(1)
        except _BlockReached:
            return True
        except Exception as error:  # whatever a model raises
            if is_out_of_memory(error):
                raise
    return False


def run_in_parts(
    block: Callable[..., Any],
    rules: BlockRules,
    in_place: bool,
    parts: Sequence[Span],
    args: tuple,
    kwargs: dict,
) -> Any:
    """Call a block on one part of the sequences at a time and join what it returns along the batch.

    Raises:
        NotStreamableError: the call does not match the rules.
    """
    if len(parts) == 1:
        return block(*args, **kwargs)
    leaves, tree = tree_flatten((args, kwargs))
    inputs = hidden_states_of(args, kwargs)
    along = rule_of(inputs, leaves, rules, parts[-1][1])
    joined: list[Any] = []
    for start, stop in parts:
        part_args, part_kwargs = tree_unflatten(take_part(leaves, rules, start, stop), tree)
        outputs, output_tree = tree_flatten(block(*part_args, **part_kwargs))
        if not joined:
            joined = [along.room_for(output, parts[-1][1]) if torch.is_tensor(output) else output for output in outputs]
            if in_place and joined[0].dtype == inputs.dtype and joined[0].shape == inputs.shape:
                joined[0] = inputs
        for whole, output in zip(joined, outputs, strict=True):
            if torch.is_tensor(output):
                along.take(whole, start, stop).copy_(output)
    return tree_unflatten(joined, output_tree)


def rule_of(inputs: torch.Tensor, leaves: Sequence[Any], rules: BlockRules, sequences: int) -> BatchRule:
    """Return how the hidden states `inputs` among the leaves of a block's (args, kwargs) carry the batch.

    Raises:
        NotStreamableError: the leaves do not match the rules.
    """
    same = len(leaves) == len(rules) and all(
        rule is None if not torch.is_tensor(leaf) else rule is not None and rule.fits(leaf, sequences)
        for leaf, rule in zip(leaves, rules, strict=True)
    )
    found = next((rule for leaf, rule in zip(leaves, rules, strict=False) if leaf is inputs), None)
    if not same or not isinstance(found, BatchRule):
        raise NotStreamableError("the arguments of its blocks depend on the tokens")
    return found


def take_part(leaves: Sequence[Any], rules: BlockRules, start: int, stop: int) -> list[Any]:
    """Return the leaves of a block's (args, kwargs) for sequences `start` to `stop`, as views."""
    return [leaf if rule is None else rule.take(leaf, start, stop) for leaf, rule in zip(leaves, rules, strict=True)]


def hidden_states_of(args: tuple, kwargs: dict) -> torch.Tensor:
    """Return the hidden states among a block's arguments."""
    return args[0] if args else kwargs["hidden_states"]


def passed_on(result: Any) -> torch.Tensor:
    """Return the hidden states in a block's result."""
    first: torch.Tensor = tree_flatten(result)[0][0]
    return first


def _record(
    blocks: nn.ModuleList, run: Callable[[int], torch.Tensor], sequences: int, as_tuple: bool
) -> tuple[list[Sequence[torch.Size | None]], torch.Tensor]:
    """Return the shapes of all tensor arguments of each block, and the output after the inputs were overwritten."""
    calls: list[Sequence[torch.Size | None]] = []
    shape: torch.Size | None = None

    def recorder(*args: Any, **kwargs: Any) -> Any:
        nonlocal shape
        hidden_states = hidden_states_of(args, kwargs)
        if shape is not None and hidden_states.shape != shape:
            raise NotStreamableError(f"hidden states change shape from {tuple(shape)} to {tuple(hidden_states.shape)}")
        shape = hidden_states.shape
        leaves, _ = tree_flatten((args, kwargs))
        calls.append([leaf.shape if torch.is_tensor(leaf) else None for leaf in leaves])
        passed_on = hidden_states.clone()
        hidden_states.fill_(torch.nan)
        return (passed_on,) if as_tuple else passed_on

    with ExitStack() as stack:
        for block in blocks:
            stack.enter_context(replaced_forward(block, recorder))
        final = run(sequences)
    return calls, final


def _rule(two: torch.Size | None, three: torch.Size | None) -> BatchRule | SameRule | None:
    if two == three:
        return None if two is None else SameRule(two)
    if two is None or three is None or len(two) != len(three):
        raise NotStreamableError("the kinds of a block's arguments change with the number of sequences")
    dim, *others = [index for index, (a, b) in enumerate(zip(two, three, strict=True)) if a != b]
    rows = three[dim] - two[dim]
    if others or two[dim] != 2 * rows:
        raise NotStreamableError(f"an argument of shape {tuple(two)} for two sequences does not split by sequence")
    return BatchRule(dim, rows)


def _line(failure: Exception | None) -> str:
    return str(failure).strip().split("\n")[0]
