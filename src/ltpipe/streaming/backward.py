"""Gradients of the loss with respect to the weights of the blocks, one block of weights at a time.

The model's own, unmodified forward runs as in `CausalModel.hidden_states`, but each block is one node of the autograd
graph that keeps only its input, on the host. The backward pass reaches the nodes in reverse: a block's weights are
fetched again, its sequences are recomputed in micro-batches (gradient checkpointing, Chen et al. 2016, 1604.06174),
each weight gradient is handed out and freed as soon as it is complete, and only the gradient with respect to the hidden
states is passed on.
"""

import weakref
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from ltpipe.runtime.device import has_streams
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.progress import track
from ltpipe.streaming.blocks import (
    BatchRule,
    BlockRules,
    Division,
    NotStreamableError,
    hidden_states_of,
    passed_on,
    rule_of,
    run_in_parts,
    take_part,
)
from ltpipe.streaming.gradients import GradientSink, gradient_of, handing_out
from ltpipe.streaming.head import HeadLosses, Objective, next_token_loss
from ltpipe.streaming.model import CausalModel


def walk_gradients(
    model: CausalModel,
    input_ids: torch.Tensor,
    micro_batch: int,
    chunk: int,
    names: Collection[str],
    sink: GradientSink,
    objective: Objective = next_token_loss,
) -> torch.Tensor:
    """Hand out the gradients of weights in the blocks, of the *summed* next-token loss of each micro-batch.

    Summed over all micro-batches they give the gradient of the whole loss (divide by the number of predicted tokens
    for that of the mean loss). With `micro_batch` 1 they are gradients of single sequences. Every weight gets one
    gradient per micro-batch, zeros if the micro-batch did not use it. If weights are masked, gradients are taken at the
    masked weights; the gradients of pruned weights are not masked.

    A model that cannot be streamed is loaded whole, and all blocks finish together at the end.

    Args:
        model: the model.
        input_ids: int64 [sequences, tokens].
        micro_batch: number of sequences that go through a block together.
        chunk: number of tokens whose logits exist at the same time.
        names: stored names of the weights to differentiate by.
        sink: receives the gradients.
        objective: what to differentiate in place of the next-token loss.

    Returns:
        Losses, float32 [sequences, tokens - 1] on the CPU, nats.

    Raises:
        ValueError: a name is not a parameter in the blocks.
        UserError: the model has no gradients.
    """
    for name in names:
        entry = model.manifest.tensors.get(name)
        if entry is None or entry.buffer or not model.manifest.in_blocks(name):
            raise ValueError(f"{name}: not a parameter in the blocks")
    if reason := model.manifest.walks.gradients:
        raise UserError(f"{model.manifest.architecture} has no gradients ({reason}); use a criterion that needs none")
    if model.streamed and (reason := model.manifest.walks.backward):
        model.give_up_streaming(reason)
    input_ids, wanted = input_ids.to(model.device), frozenset(names)
    # Single-threaded: the sink is called in the caller's thread, and a fake accelerator works in no other.
    with torch.enable_grad(), torch.autograd.set_multithreading_enabled(False):
        division = model.divide(input_ids.shape[1])
        if division is not None:
            try:
                return stream_gradients(model, division, input_ids, micro_batch, chunk, wanted, sink, objective)
            except NotStreamableError as error:
                model.give_up_streaming(str(error))
        model.load_whole()
        parameters = {name: model.split.model.get_parameter(name) for name in sorted(wanted)}
        losses = []
        with handing_out(parameters, sink) as gradients:  # which are still freed one by one
            for part in track(input_ids.split(micro_batch), "gradients", "micro-batch"):
                with gradients.of_micro_batch():
                    found = HeadLosses.apply(model.split.hidden_states(part), model, part, chunk, objective)
                    if found.requires_grad:
                        found.sum().backward()
                    losses.append(found.detach())
        for block in reversed(model.blocks):
            sink.finish(block)
        return torch.cat(losses)


def stream_gradients(
    model: CausalModel,
    division: Division,
    input_ids: torch.Tensor,
    micro_batch: int,
    chunk: int,
    wanted: Collection[str],
    sink: GradientSink,
    objective: Objective = next_token_loss,
) -> torch.Tensor:
    """Do the same as `walk_gradients`, with gradients already enabled, and only streamed.

    Raises:
        NotStreamableError: the model's gradients do not just flow from block to block; raised before the sink gets
            anything.
    """
    losses = _Walk(model, division, input_ids, micro_batch, wanted, sink).forward(chunk, objective)
    losses.sum().backward()
    return losses.detach()


@dataclass
class _Call:
    """The record of a call of a block.

    Attributes:
        block: full name of the block.
        own_forward: the block's own forward.
        rules: how the call is split into parts.
        leaves, tree: its flattened (args, kwargs), without the hidden states.
        places: indices of the hidden states among the leaves.
        along: how the hidden states carry the batch.
        hidden_states: [sequences, tokens, width] on the host.
        owns_gradient: whether nothing else can see the gradient with respect to its result, so that it may be
            overwritten. This holds if the model passes that very tensor to the next block: autograd then passes on what
            that block returned, or a sum of its own. The gradient may be shared if there is something in between, for
            example an addition.
    """

    block: str
    own_forward: Callable[..., Any]
    rules: BlockRules
    leaves: list[Any]
    tree: TreeSpec
    places: frozenset[int]
    along: BatchRule
    hidden_states: torch.Tensor
    owns_gradient: bool = False

    def run(self, hidden_states: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """Return the block's output for the hidden states of sequences `start` to `stop`."""
        part = take_part(self.leaves, self.rules, start, stop)
        args, kwargs = tree_unflatten(
            [hidden_states if index in self.places else leaf for index, leaf in enumerate(part)], self.tree
        )
        return passed_on(self.own_forward(*args, **kwargs))


class _Walk:
    """One forward and backward pass over a batch, streamed."""

    def __init__(
        self,
        model: CausalModel,
        division: Division,
        input_ids: torch.Tensor,
        micro_batch: int,
        wanted: Collection[str],
        sink: GradientSink,
    ) -> None:
        self._model, self._division, self._input_ids = model, division, input_ids
        self._wanted, self._sink = wanted, sink
        self._parts = model.parts(len(input_ids), micro_batch)
        self._prefetcher = model.prefetcher()
        self._following = dict(pairwise(model.blocks))
        self._preceding = dict(pairwise(reversed(model.blocks)))
        self._called: set[str] = set()
        self._turns = iter(track(division.rules, "forward", "block"))
        self._returns = iter(track(division.rules, "backward", "block"))
        self._passed_on: tuple[weakref.ref, _Call] | None = None
        # The first block's input needs no gradient, but the block must still be a node of the graph.
        self._root = torch.zeros((), requires_grad=True)

    def forward(self, chunk: int, objective: Objective) -> torch.Tensor:
        """Return differentiable losses, float32 [sequences, tokens - 1] on the CPU.

        Raises:
            NotStreamableError: the model's gradients do not just flow from block to block.
        """
        block_of = self._model.manifest.walked_block
        for alias, name in self._model.manifest.tied.items():
            if block_of(alias) != block_of(name):
                raise NotStreamableError(f"a weight of a block is used outside it ('{alias}' is tied to '{name}')")
        with self._model.streaming(self._run):
            hidden_states = self._model.split.hidden_states(self._input_ids)
        return HeadLosses.apply(hidden_states, self._model, self._input_ids, chunk, objective)

    def _run(self, block: str, own_forward: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
        """Stand in for a block's forward."""
        if block in self._called:
            raise NotStreamableError(f"block '{block}' is called more than once")
        self._called.add(block)
        hidden_states = hidden_states_of(args, kwargs)
        leaves, tree = tree_flatten((args, kwargs))
        rules = next(self._turns)
        along = rule_of(hidden_states, leaves, rules, len(self._input_ids))
        places = frozenset(index for index, leaf in enumerate(leaves) if leaf is hidden_states)
        leaves = [None if index in places else leaf for index, leaf in enumerate(leaves)]
        if any(torch.is_tensor(leaf) and leaf.requires_grad for leaf in leaves):
            raise NotStreamableError(f"block '{block}' receives more than hidden states from earlier blocks")
        # Not in place: autograd may have saved the input, and the model may use it again.
        whole = partial(run_in_parts, own_forward, rules, False, self._parts, args, kwargs)
        others = tuple(None if index in places else rule for index, rule in enumerate(rules))
        call = _Call(block, own_forward, others, leaves, tree, places, along, _on_host(hidden_states))
        if self._passed_on is not None and self._passed_on[0]() is hidden_states:
            self._passed_on[1].owns_gradient = True
        result = _Block.apply(self._root, hidden_states, self, call, whole)
        self._passed_on = weakref.ref(result), call
        return (result,) if self._division.as_tuple else result

    def push(self, block: str, whole: Callable[[], Any]) -> torch.Tensor:
        """Run a block on all sequences, without a graph."""
        with self._model.block(block, self._prefetcher.take(block, self._model.fetch_block)):
            result = whole()
            if block in self._following:
                self._prefetcher.start(self._following[block], self._model.fetch_block)
            return passed_on(result)

    def pull(self, call: _Call, gradient: torch.Tensor, wants_input: bool) -> torch.Tensor | None:
        """Hand out the gradients of a block's weights, and return its input's gradient if wanted.

        Args:
            call: the block's call.
            gradient: gradient of the block's output, [sequences, tokens, width]; overwritten if the call owns it.
            wants_input: whether earlier blocks need the gradient of this block's input.
        """
        next(self._returns, None)
        passed_back = None
        if wants_input:
            passed_back = gradient if call.owns_gradient else torch.empty_like(gradient)
        self._pull_into(passed_back, call, gradient)
        self._sink.finish(call.block)
        return passed_back

    def _pull_into(self, passed_back: torch.Tensor | None, call: _Call, gradient: torch.Tensor) -> None:
        weights = self._prefetcher.take(call.block, self._model.fetch_block)
        wanted = {name: weight for name, weight in weights.items() if name in self._wanted}
        with self._model.block(call.block, weights), handing_out(wanted, self._sink) as gradients:
            for start, stop in self._parts:
                hidden_states = call.along.take(call.hidden_states, start, stop)
                hidden_states = hidden_states.to(gradient.device, non_blocking=True, copy=True)
                hidden_states.requires_grad_(passed_back is not None)
                with gradients.of_micro_batch():
                    result = call.run(hidden_states, start, stop)
                    if result.requires_grad:
                        torch.autograd.backward(result, call.along.take(gradient, start, stop))
                    del result
                if passed_back is not None:
                    call.along.take(passed_back, start, stop).copy_(gradient_of(hidden_states))
                del hidden_states
            if call.block in self._preceding:
                self._prefetcher.start(self._preceding[call.block], self._model.fetch_block)


class _Block(torch.autograd.Function):
    """A block as a node of the graph."""

    @staticmethod
    def forward(
        ctx: Any,
        root: torch.Tensor,  # noqa: ARG004
        hidden_states: torch.Tensor,  # noqa: ARG004
        walk: _Walk,
        call: _Call,
        whole: Callable[[], Any],
    ) -> torch.Tensor:
        ctx.walk, ctx.call = walk, call
        return walk.push(call.block, whole)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        walk, call, ctx.walk, ctx.call = ctx.walk, ctx.call, None, None  # drop what was kept
        with torch.enable_grad():
            return None, walk.pull(call, gradient, ctx.needs_input_grad[1]), None, None, None


def _on_host(tensor: torch.Tensor) -> torch.Tensor:
    """Return a copy on the host, from which the device can fetch parts while it computes."""
    pinned = has_streams(tensor.device)
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=pinned)
    return copy.copy_(tensor.detach(), non_blocking=pinned)
