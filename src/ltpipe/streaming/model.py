"""A causal language model that keeps one block of weights in memory at a time.

The model's own, unmodified forward runs with all sequences as one batch. When it reaches a block, that block's weights
are fetched (and masked), every sequence is run through it in micro-batches, and the weights are freed. The same goes
for the embeddings, the final norm and the head: modules have weights only while they run. The whole model is never in
memory and nothing has to be restored; each weight is read once per evaluation, a tied embedding twice.

Several tickets of a model can share a pass. Then the batch contains the sequences once for each ticket, and a block
runs each ticket's sequences with that ticket's weights, in the same parts as alone.

In between, a module has stand-ins: tensors with the right shape, dtype and device, in case a parent looks at those, but
with no memory and NaN for all values. A model that computes with a weight outside its module gives NaN, and one that
writes to its weights an error; a slightly wrong number is impossible.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from itertools import count as counter
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import nn

from ltpipe.checkpoints.manifest import Manifest
from ltpipe.runtime.device import is_out_of_memory
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.progress import track
from ltpipe.streaming.blocks import (
    BlockRules,
    Division,
    NotStreamableError,
    Span,
    blocks_reached,
    parts_of,
    probe_blocks,
    replaced_forward,
    run_in_parts,
)
from ltpipe.streaming.offload import Fetch, Offload
from ltpipe.streaming.prefetch import Prefetcher
from ltpipe.streaming.shards import Shards
from ltpipe.streaming.split import SplitModel

logger = logging.getLogger(__name__)

Found = TypeVar("Found")

RunBlock = Callable[[str, Callable[..., Any], tuple, dict], Any]
"""Takes a block's full name, its own forward, and its arguments from the model; returns the block's result."""


class CausalModel:
    """Hidden states and logits of a causal language model over a checkpoint.

    Args:
        skeleton: a model from `build_skeleton`; this object owns it from now on.
        manifest: the checkpoint's manifest; its `walks` decides how the model is walked.
        fetch: fetches the weights.
        device: device to compute on.
        streamed: False loads the whole model at once.
        division: how the blocks run on a part of the batch; None finds out when hidden states are first computed.
        devices: devices that keep the weights, `device` first; if empty, weights are fetched when needed.
        further: fetches of the blocks' weights of further tickets, which share each pass with the first.

    Attributes:
        split: the live model, split before its head.
        manifest, offload, device: the checkpoint's manifest, the modules' weights, the device.
        tickets: number of tickets that share a pass.
        blocks: the blocks by their full names, in order.
        not_streamed_because: why the whole model is in memory; empty if it is not.
    """

    def __init__(
        self,
        skeleton: nn.Module,
        manifest: Manifest,
        fetch: Fetch,
        device: torch.device,
        streamed: bool,
        division: Division | None = None,
        devices: Sequence[torch.device] = (),
        further: Sequence[Fetch] = (),
    ) -> None:
        self.split = SplitModel(skeleton, manifest.blocks, apart=not manifest.walks.head)
        self.manifest = manifest
        dtype = next(skeleton.parameters()).dtype
        self._shards = Shards(manifest, fetch, dtype, devices) if devices else None
        source = self._shards or fetch
        self.offload = Offload(manifest, _copying(source) if manifest.walks.rewrites else source)
        self._offloads = [self.offload, *(Offload(manifest, each) for each in further)]
        self.tickets = len(self._offloads)
        self.device = device
        self.blocks = {f"{manifest.blocks}.{index}": block for index, block in enumerate(self.split.blocks)}
        self._division = division
        self._whole = False
        self.not_streamed_because = manifest.walks.forward if streamed else "asked for in the configuration"
        self._switches = _switches(skeleton) if manifest.walks.rewrites else {}
        for module in skeleton.modules():
            for name, buffer in module.named_buffers(recurse=False):
                module._buffers[name] = buffer.to(device)
        self._put_stand_ins()
        if self._shards:
            for name, block in self.blocks.items():
                self._shards.install(name, block)
        for name, ancestor in self.split.ancestors():
            self.offload.load(ancestor, name, recurse=False)

    @property
    def streamed(self) -> bool:
        """Whether blocks are streamed; False if the whole model is in memory."""
        return not self.not_streamed_because

    @property
    def execution(self) -> str:
        """How weights get into memory, in words."""
        if not self.streamed:
            return f"in-memory: {self.not_streamed_because}"
        return "sharded" if self._shards else "streamed"

    @torch.inference_mode()
    def hidden_states(self, input_ids: torch.Tensor, micro_batch: int) -> torch.Tensor:
        """Return the final hidden states, the input of the model's head.

        Args:
            input_ids: int64 [sequences, tokens], on any device.
            micro_batch: number of sequences that go through a block together.

        Returns:
            [tickets · sequences, tokens, width] on the device, one ticket after the other.

        Raises:
            UserError: the sequences are too long for the model.
            NotStreamableError: several tickets cannot share a pass.
        """
        try:
            return self._hidden_states(input_ids.to(self.device), micro_batch)
        except (IndexError, RuntimeError) as error:  # position tables inside blocks are finite too
            length, most = input_ids.shape[1], positions(self.split.model)
            if is_out_of_memory(error) or most is None or length <= most:
                raise
            raise self._too_long(length) from error

    def _hidden_states(self, input_ids: torch.Tensor, micro_batch: int) -> torch.Tensor:
        division = self.divide(input_ids.shape[1])
        if division is not None:
            try:
                return self.stream(input_ids, micro_batch, division)
            except NotStreamableError as error:
                self.give_up_streaming(str(error))
        if self.tickets > 1:
            raise NotStreamableError(self.not_streamed_because)
        self.load_whole()
        whole: torch.Tensor | None = None
        for start, stop in track(self.parts(len(input_ids), micro_batch), "forward", "micro-batch"):
            part = self.split.hidden_states(input_ids[start:stop])
            if whole is None:
                whole = part.new_empty((len(input_ids), *part.shape[1:]))
            whole[start:stop] = part
        assert whole is not None  # there is a sequence
        return whole

    def parts(self, total: int, size: int) -> list[Span]:
        """Return the parts that a walk processes in turn: micro-batches of sequences, chunks of tokens."""
        return parts_of(total, size)

    def load_whole(self) -> None:
        """Load the weights of the whole model for good."""
        if not self._whole:
            for module, switches in self._switches.items():
                module.__dict__.update(switches)
            with torch.inference_mode(False):  # gradients of the same weights may be needed later
                self.offload.load(self.split.model, "")
            self._whole = True

    def reload(self) -> None:
        """Fetch weights that were loaded again on next use, because they have changed."""
        self._whole = False
        if self._shards:
            self._shards.forget()

    def give_up_streaming(self, reason: str) -> None:
        """Load the whole model from now on, because of `reason`."""
        self.not_streamed_because, self._division = reason, None
        logger.warning("loading the whole model: %s", reason)

    @contextmanager
    def head(self) -> Iterator[None]:
        """Give the head its weights inside the context, to compute logits."""
        with ExitStack() as stack:
            if self.streamed:
                for name, module in self.split.outside():
                    if not self.split.in_backbone(name):
                        stack.enter_context(self.offload.loaded(module, name))
            yield

    @torch.inference_mode()
    def logits(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Apply the model's own head to [rows, width] hidden states; return logits [rows, vocabulary]."""
        return self.split.logits(hidden_states)

    def divide(self, length: int) -> Division | None:
        """Return how blocks run on a part of a batch of `length` tokens; None if the model is loaded whole."""
        if self.streamed and self._division is None:
            try:
                self._division = self.probe(length, probe_blocks)
            except NotStreamableError as error:
                self.give_up_streaming(str(error))
        return self._division

    @torch.inference_mode()
    def probe(self, length: int, find: Callable[[nn.ModuleList, Callable[[int], torch.Tensor]], Found]) -> Found:
        """Return the result of `find` on the blocks and a function that runs n sequences of `length` tokens.

        No weights are needed: every module outside the blocks gets zeros that take no memory.
        """
        shapes: dict[str, torch.Tensor] = dict(self.split.model.named_parameters(remove_duplicate=False))
        shapes |= dict(self.split.model.named_buffers(remove_duplicate=False))

        def nothing(name: str) -> torch.Tensor:
            return torch.zeros((), dtype=shapes[name].dtype, device=self.device).expand(shapes[name].shape)

        def run(sequences: int) -> torch.Tensor:
            tokens = torch.zeros((sequences, length), dtype=torch.long, device=self.device)
            final = self.split.hidden_states(tokens)
            self.split.logits(final[0, :0])  # fails if the head uses weights of a module that is not in it
            return final

        with self._outside_loaded(Offload(self.manifest, nothing)):
            return find(self.split.blocks, run)

    def check_length(self, length: int) -> None:
        """Reject sequences that are too long for the model: they fail before the blocks, while two tokens do not.

        Raises:
            UserError: the sequences have more tokens than the model has positions.
        """
        if not self.probe(length, blocks_reached) and self.probe(2, blocks_reached):
            raise self._too_long(length)

    def _too_long(self, length: int) -> UserError:
        most = positions(self.split.model)
        allowed = f"takes at most {most:,}" if most else "takes fewer"
        return UserError(f"sequence_length: {length:,} tokens are too many; {self.manifest.architecture} {allowed}")

    def prefetcher(self) -> Prefetcher:
        """Return a prefetcher of weights; devices that keep their weights need none."""
        return Prefetcher(torch.device("cpu") if self._shards else self.device)

    def fetch_block(self, name: str, ticket: int = 0) -> dict[str, nn.Parameter]:
        """Return a block's weights by their stored names; `name` is the block's full name."""
        return self._offloads[ticket].fetch(self.blocks[name], name)

    def block(self, name: str, weights: Mapping[str, nn.Parameter]) -> AbstractContextManager[None]:
        """Give a block its weights inside the context."""
        return self.offload.loaded(self.blocks[name], name, weights)

    @contextmanager
    def streaming(self, run: RunBlock) -> Iterator[None]:
        """Replace every block's forward by `run`, and give each module outside the blocks weights while it runs."""

        def streamed(name: str, own_forward: Callable[..., Any]) -> Callable[..., Any]:
            return lambda *args, **kwargs: run(name, own_forward, args, kwargs)

        with ExitStack() as stack:
            for name, block in self.blocks.items():
                stack.enter_context(replaced_forward(block, streamed(name, block.forward)))
            stack.enter_context(self._outside_loaded(self.offload))
            yield

    @torch.inference_mode()
    def stream(self, input_ids: torch.Tensor, micro_batch: int, division: Division) -> torch.Tensor:
        """Return the same as `hidden_states`, with each module's weights fetched before it runs and freed after.

        Raises:
            NotStreamableError: the model calls its blocks differently from when it was probed.
        """
        turns = iter(track(division.rules, "forward", "block"))
        prefetcher = self.prefetcher()
        following = dict(pairwise(self.blocks))
        parts = self.parts(len(input_ids), micro_batch)

        def run(name: str, own_forward: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
            def prefetch() -> None:
                if name in following:
                    prefetcher.start(following[name], self.fetch_block)

            weights, rules = partial(weights_of, name), next(turns)
            return self.run_block(
                name, own_forward, rules, division, parts, weights, self.tickets, args, kwargs, prefetch
            )

        def weights_of(name: str, ticket: int) -> Mapping[str, nn.Parameter]:
            return self.fetch_block(name, ticket) if ticket else prefetcher.take(name, self.fetch_block)

        with self.streaming(run):
            return self.split.hidden_states(input_ids.repeat(self.tickets, 1) if self.tickets > 1 else input_ids)

    def run_block(
        self,
        name: str,
        own_forward: Callable[..., Any],
        rules: BlockRules,
        division: Division,
        parts: Sequence[Span],
        weights: Callable[[int], Mapping[str, nn.Parameter]],
        tickets: int,
        args: tuple,
        kwargs: dict,
        last: Callable[[], None] = lambda: None,
    ) -> Any:
        """Run a block on the sequences of one ticket after the other, and return its result for all.

        Args:
            name: the block's full name.
            own_forward: its own forward.
            rules: how this call is split into parts.
            division: how blocks run on a part of the batch.
            parts: the parts of one ticket's sequences.
            weights: function from the number of a ticket to its weights.
            tickets: number of tickets whose sequences are in the batch.
            args: the block's arguments from the model.
            kwargs: its keyword arguments.
            last: called before the last weights are freed; a device may still compute.

        Raises:
            NotStreamableError: the call does not match the rules.
        """
        calls, count = counter(), parts[-1][1]
        every = [(turn * count + start, turn * count + stop) for turn in range(tickets) for start, stop in parts]
        with ExitStack() as loaded:

            def forward(*args: Any, **kwargs: Any) -> Any:
                ticket, part = divmod(next(calls), len(parts))
                if part == 0:
                    loaded.close()
                    loaded.enter_context(self.block(name, weights(ticket)))
                return own_forward(*args, **kwargs)

            result = run_in_parts(forward, rules, division.in_place, every, args, kwargs)
            last()
            return result

    def _put_stand_ins(self) -> None:
        """Replace every stored floating-point tensor by NaN that takes no memory; integers keep their values."""
        model, made = self.split.model, {}
        for path, module in model.named_modules():
            for leaf, tensor in [*module._parameters.items(), *module._buffers.items()]:
                name = f"{path}.{leaf}".removeprefix(".")
                stored = leaf in module._parameters or name in self.manifest.tensors
                if tensor is None or not stored or not tensor.is_floating_point():
                    continue
                place = self._shards.device_of(self.manifest.walked_block(name)) if self._shards else self.device
                kind = tensor.dtype, place
                if kind not in made:
                    made[kind] = torch.full((), torch.nan, dtype=tensor.dtype, device=place)
                stand_in = made[kind].expand(tensor.shape)
                if leaf in module._parameters:
                    module._parameters[leaf] = nn.Parameter(stand_in, requires_grad=False)
                else:
                    module._buffers[leaf] = stand_in

    @contextmanager
    def _outside_loaded(self, offload: Offload) -> Iterator[None]:
        """Give every module outside the blocks its weights while it runs."""

        def wrapped(module: nn.Module, name: str) -> Callable[..., Any]:
            own_forward = module.forward

            def forward(*args: Any, **kwargs: Any) -> Any:
                with offload.loaded(module, name):
                    return own_forward(*args, **kwargs)

            return forward

        with ExitStack() as stack:
            for name, module in self.split.outside():
                if offload.has_weights(module, name):
                    stack.enter_context(replaced_forward(module, wrapped(module, name)))
            yield


def _copying(fetch: Fetch) -> Fetch:
    """Return a fetch whose weights the model may write to: otherwise they may be the checkpoint itself."""
    return lambda name: fetch(name).clone()


def why_alone(skeleton: nn.Module, manifest: Manifest) -> str:
    """Return why tickets cannot share a pass with the same results as alone, to the bit; empty if they can.

    Outside the blocks, the batch of all tickets runs as one. So only modules are allowed there whose results for a
    sequence cannot depend on how many there are: embeddings and norms, but no matrix products.
    """
    walks = manifest.walks
    if walks.forward or walks.head or walks.rewrites:
        return walks.forward or walks.head or "its forward pass writes to its own weights"
    head = skeleton.get_output_embeddings()  # type: ignore[operator]
    for name, module in SplitModel(skeleton, manifest.blocks).outside():
        for inner in module.modules():
            wide = any(parameter.dim() > 1 for parameter in inner.parameters(recurse=False))
            if wide and inner is not head and not isinstance(inner, nn.Embedding):
                return f"'{name}' multiplies matrices outside the blocks"
    return ""


def positions(model: nn.Module) -> int | None:
    """Return the number of positions a model is configured for; None if it does not say."""
    config = getattr(model, "config", None)
    most = getattr(config.get_text_config(), "max_position_embeddings", None) if config is not None else None
    return most if isinstance(most, int) and most > 0 else None


def _switches(model: nn.Module) -> dict[nn.Module, dict[str, Any]]:
    """Return the plain attributes of a model's modules: numbers, strings and flags."""
    plain = bool | int | float | str
    return {m: {k: v for k, v in vars(m).items() if v is None or isinstance(v, plain)} for m in model.modules()}
