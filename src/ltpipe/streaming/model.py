"""A causal language model that holds one block of weights at a time.

The model's own, unmodified forward runs with all sequences as one batch. When it reaches a block, that block's
weights are fetched (masked on the way), every sequence is run through it in micro-batches, and the weights are freed.
So are those of the embeddings, the final norm and the head: modules hold weights only while they run. The whole model
is never in memory and nothing has to be restored; each weight is read once an evaluation, a tied embedding twice.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from ltpipe.checkpoints.manifest import Manifest
from ltpipe.runtime.progress import track
from ltpipe.streaming.ahead import Ahead
from ltpipe.streaming.blocks import (
    Division,
    NotStreamableError,
    Part,
    parts_of,
    probe_blocks,
    replaced_forward,
    run_in_parts,
)
from ltpipe.streaming.lending import Fetch, Lender
from ltpipe.streaming.shards import Shards
from ltpipe.streaming.split import SplitModel

logger = logging.getLogger(__name__)

RunBlock = Callable[[str, Callable[..., Any], tuple, dict], Any]
"""Gets a block's full name, its own forward, and what the model called it with; returns what the block would have."""


class CausalModel:
    """Hidden states and logits of a causal language model over a checkpoint.

    Args:
        skeleton: as `build_skeleton` makes it; this object owns it from now on.
        manifest: of the checkpoint.
        fetch: gives the weights.
        device: where to compute.
        streamed: False loads the whole model at once.
        division: how the blocks run on a part of the batch; None finds out when hidden states are first asked for.
        devices: that keep the weights, `device` first; without any, weights are fetched when they are needed.

    Attributes:
        split: the live model, cut before its head.
        manifest, lender, device: what is stored, who gives modules their weights, and where it is computed.
        blocks: full names of the blocks, in order, with the blocks.
        not_streamed_because: why the whole model is in memory; empty where it is not.
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
    ) -> None:
        self.split = SplitModel(skeleton, manifest.blocks)
        self.manifest = manifest
        dtype = next(skeleton.parameters()).dtype
        self._shards = Shards(manifest, fetch, dtype, devices) if devices else None
        self.lender = Lender(manifest, self._shards or fetch)
        self.device = device
        self.blocks = {f"{manifest.blocks}.{index}": block for index, block in enumerate(self.split.blocks)}
        self._division = division
        self._whole = False
        self.not_streamed_because = "" if streamed else "asked for in the configuration"
        for module in skeleton.modules():
            for name, buffer in module.named_buffers(recurse=False):
                module._buffers[name] = buffer.to(device)
        if self._shards:
            for name, block in self.blocks.items():
                self._shards.install(name, block)
        for name, ancestor in self.split.ancestors():
            self.lender.give(ancestor, name, recurse=False)

    @property
    def streamed(self) -> bool:
        """Whether blocks are streamed; False when the whole model is in memory."""
        return not self.not_streamed_because

    @property
    def execution(self) -> str:
        """How weights come into memory, in words."""
        if not self.streamed:
            return f"in-memory: {self.not_streamed_because}"
        return "sharded" if self._shards else "streamed"

    @torch.inference_mode()
    def hidden_states(self, input_ids: torch.Tensor, micro_batch: int) -> torch.Tensor:
        """Final hidden states, what the model's head is applied to.

        Args:
            input_ids: int64 [sequences, tokens], on any device.
            micro_batch: number of sequences that go through a block together.

        Returns:
            [sequences, tokens, width] on the device.
        """
        input_ids = input_ids.to(self.device)
        division = self.divide(input_ids.shape[1])
        if division is not None:
            return self._stream(input_ids, micro_batch, division)
        self.load_whole()
        whole: torch.Tensor | None = None
        for start, stop in track(self.parts(len(input_ids), micro_batch), "forward", "micro-batch"):
            part = self.split.hidden_states(input_ids[start:stop])
            if whole is None:
                whole = part.new_empty((len(input_ids), *part.shape[1:]))
            whole[start:stop] = part
        return whole

    def parts(self, total: int, size: int) -> list[Part]:
        """The parts that a walk takes one after the other: micro-batches of sequences, chunks of tokens."""
        return parts_of(total, size)

    def load_whole(self) -> None:
        """Let the whole model have its weights from now on."""
        if not self._whole:
            with torch.inference_mode(False):  # gradients may be asked of the same weights later
                self.lender.give(self.split.model, "")
            self._whole = True

    def reload(self) -> None:
        """Let weights that were loaded whole be fetched again, because they have changed."""
        self._whole = False
        if self._shards:
            self._shards.forget()

    def give_up_streaming(self, reason: str) -> None:
        """Load the whole model from now on, because of `reason`."""
        self.not_streamed_because, self._division = reason, None
        logger.warning("the model is loaded whole: %s", reason)

    @contextmanager
    def head(self) -> Iterator[None]:
        """Let the head have its weights, for the logits that are computed meanwhile."""
        with ExitStack() as stack:
            if self.streamed:
                for name, module in self.split.outside():
                    if not self.split.in_backbone(name):
                        stack.enter_context(self.lender.lend(module, name))
            yield

    @torch.inference_mode()
    def logits(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """The model's own head on [rows, width] hidden states: logits [rows, vocabulary]."""
        return self.split.logits(hidden_states)

    @torch.inference_mode()
    def divide(self, length: int) -> Division | None:
        """How the blocks run on a part of a batch of sequences of `length` tokens; None if the model is loaded whole.

        The probe needs no weights: every module outside the blocks gets zeros that take no memory.
        """
        if self.streamed and self._division is None:
            shapes = dict(self.split.model.named_parameters(remove_duplicate=False))
            shapes |= dict(self.split.model.named_buffers(remove_duplicate=False))

            def nothing(name: str) -> torch.Tensor:
                return torch.zeros((), dtype=shapes[name].dtype, device=self.device).expand(shapes[name].shape)

            def run(sequences: int) -> torch.Tensor:
                tokens = torch.zeros((sequences, length), dtype=torch.long, device=self.device)
                final = self.split.hidden_states(tokens)
                self.split.logits(final[0, :0])  # fails if the head uses weights of a module that is not in it
                return final

            try:
                with self._outside_lent(Lender(self.manifest, nothing)):
                    self._division = probe_blocks(self.split.blocks, run)
            except NotStreamableError as error:
                self.give_up_streaming(str(error))
        return self._division

    def ahead(self) -> Ahead:
        """What loads weights before their turn; nothing is to be gained where they are kept."""
        return Ahead(torch.device("cpu") if self._shards else self.device)

    def fetch_block(self, name: str) -> dict[str, nn.Parameter]:
        """The weights of the block of that full name, by their stored names."""
        return self.lender.fetch(self.blocks[name], name)

    def block(self, name: str, weights: Mapping[str, nn.Parameter]) -> AbstractContextManager[None]:
        """Let a block have its weights, for what is computed with them meanwhile."""
        return self.lender.lend(self.blocks[name], name, weights)

    @contextmanager
    def streaming(self, run: RunBlock) -> Iterator[None]:
        """Let `run` do what a block's forward did, and every module outside the blocks have weights while it runs."""

        def streamed(name: str, own_forward: Callable[..., Any]) -> Callable[..., Any]:
            return lambda *args, **kwargs: run(name, own_forward, args, kwargs)

        with ExitStack() as stack:
            for name, block in self.blocks.items():
                stack.enter_context(replaced_forward(block, streamed(name, block.forward)))
            stack.enter_context(self._outside_lent(self.lender))
            yield

    def _stream(self, input_ids: torch.Tensor, micro_batch: int, division: Division) -> torch.Tensor:
        """Run the model with the weights of each module fetched when it is reached and freed when it is done."""
        turns = iter(track(division.rules, "forward", "block"))
        ahead = self.ahead()
        following = dict(pairwise(self.blocks))
        parts = self.parts(len(input_ids), micro_batch)

        def run(name: str, own_forward: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
            with self.block(name, ahead.take(name, self.fetch_block)):
                result = run_in_parts(own_forward, next(turns), division.in_place, parts, args, kwargs)
                if name in following:
                    ahead.start(following[name], self.fetch_block)
                return result

        with self.streaming(run):
            return self.split.hidden_states(input_ids)

    @contextmanager
    def _outside_lent(self, lender: Lender) -> Iterator[None]:
        """Let every module outside the blocks have weights of `lender` while it runs."""

        def lent(module: nn.Module, name: str) -> Callable[..., Any]:
            own_forward = module.forward

            def forward(*args: Any, **kwargs: Any) -> Any:
                with lender.lend(module, name):
                    return own_forward(*args, **kwargs)

            return forward

        with ExitStack() as stack:
            for name, module in self.split.outside():
                if lender.needs_any(module, name):
                    stack.enter_context(replaced_forward(module, lent(module, name)))
            yield
