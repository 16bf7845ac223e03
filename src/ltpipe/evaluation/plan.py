"""Plans an evaluation's memory by running it on tensors without contents, and finds batch sizes that fit."""

import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import prod
from typing import Any, cast

import torch
from torch import nn

from ltpipe.checkpoints.header import TORCH_NAMES
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.evaluation.loss import Observer, walk
from ltpipe.evaluation.perturbation import Perturbation, perturbing
from ltpipe.pruning.apply import copied_once, place
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.fake_device import CONTENTS, ByteCounter, Peak, fake, fake_accelerator
from ltpipe.runtime.memory import GIB
from ltpipe.runtime.remembered import remembered
from ltpipe.streaming.blocks import Division, Span, find_rules
from ltpipe.streaming.model import CausalModel
from ltpipe.streaming.offload import Fetch, left_as_it_was
from ltpipe.streaming.skeleton import other_dtypes

logger = logging.getLogger(__name__)

BLOCK, OUTSIDE, MASK = "weights of blocks", "weights of embeddings and head", "mask"
HIDDEN, ACTIVATIONS, LOGITS = "hidden states", "activations", "logits"
TOP_TOKENS = "top-k tokens"
KEPT = "weights that are kept"

_MICRO_BATCH_TOKENS = 4096
_CHUNK = 128


@dataclass(frozen=True)
class BatchSizes:
    """How an evaluation is split up; this changes the result by no more than float rounding.

    Attributes:
        super_batch: number of sequences whose hidden states exist at the same time; each super-batch reads all weights
            once.
        micro_batch: number of sequences that go through a block together.
        chunk: number of tokens whose logits exist at the same time.
    """

    super_batch: int
    micro_batch: int
    chunk: int

    @classmethod
    def generous(cls, sequences: int, length: int, micro_batch: int = 0) -> "BatchSizes":
        """Return the fastest sizes if memory does not matter: about four thousand tokens if `micro_batch` is 0."""
        return cls(sequences, min(sequences, micro_batch or max(1, _MICRO_BATCH_TOKENS // length)), _CHUNK)

    def smaller(self, parts: Mapping[str, int]) -> "BatchSizes | None":
        """Return the next smaller sizes, given `parts`, the bytes at the peak; None for the smallest sizes."""
        if LOGITS in parts and self.chunk > 1 and parts[LOGITS] >= parts.get(HIDDEN, 0):
            return replace(self, chunk=self.chunk // 2)
        if LOGITS not in parts and self.micro_batch > 1 and parts.get(ACTIVATIONS, 0) >= parts.get(HIDDEN, 0):
            return replace(self, micro_batch=self.micro_batch // 2)
        if self.super_batch > 1:
            half = self.super_batch // 2
            return BatchSizes(half, min(self.micro_batch, half), self.chunk)
        if self.chunk > 1 and LOGITS in parts:
            return replace(self, chunk=self.chunk // 2)
        return None

    def backed_off(self) -> "BatchSizes | None":
        """Return the sizes to try after running out of memory somewhere unknown; None for the smallest sizes."""
        if self.micro_batch > 1 or self.chunk > 1:
            return replace(self, micro_batch=max(1, self.micro_batch // 2), chunk=max(1, self.chunk // 2))
        return replace(self, super_batch=self.super_batch // 2) if self.super_batch > 1 else None

    def __str__(self) -> str:
        return f"super_batch {self.super_batch}, micro_batch {self.micro_batch}, chunk {self.chunk}"


class EvaluationPlanner:
    """Runs the pass of `token_losses` on fake tensors.

    Args:
        skeleton: the model's skeleton, in the dtype of the computation; it is not changed.
        manifest: the checkpoint's manifest, real or planned.
        masked: names of the masked tensors.
        dtype: dtype of the computation.
        accelerator: whether to plan for an accelerator rather than the CPU.
        streamed: whether one block of weights is in memory at a time.
        observe: creates the observer of the predictions, with all the memory it needs.
        perturbation: perturbation of the tensors in `perturbed`.
        perturbed: names of the perturbed tensors.
        kept: bytes of weights that a device keeps all the time, in addition to those of a pass.
        tickets: number of tickets that share a pass.
        solved: names of the tensors whose values are in a solution.
        question: what else tells this plan from others of a run, which then need not plan the same again; None to plan
            in any case.

    Attributes:
        what: what it plans, for messages.
        division: how the blocks run on a part of the batch, known after the first peak; None if they cannot.
        unforeseen: why nothing could be planned; empty if it could.
    """

    what = "an evaluation"

    def __init__(
        self,
        skeleton: nn.Module,
        manifest: Manifest,
        masked: Collection[str],
        dtype: torch.dtype,
        accelerator: bool,
        streamed: bool = True,
        observe: Callable[[], Observer] | None = None,
        perturbation: Perturbation | None = None,
        perturbed: Collection[str] = (),
        kept: int = 0,
        tickets: int = 1,
        solved: Collection[str] = (),
        question: Mapping[str, Any] | None = None,
    ) -> None:
        self._observe, self._perturbation, self._perturbed = observe, perturbation, frozenset(perturbed)
        self._skeleton, self._manifest, self._dtype, self._streamed = skeleton, manifest, dtype, streamed
        self._masked, self._kept, self._tickets, self._solved = frozenset(masked), kept, tickets, frozenset(solved)
        self._device = fake_accelerator() if accelerator else torch.device("cpu")
        self.division: Division | None = None
        self._known, self.unforeseen = False, ""
        self._question = question

    def fit(self, wanted: BatchSizes, length: int, limit: float) -> tuple[BatchSizes, Peak]:
        """Return the largest batch sizes, from `wanted` downwards, whose peak is within `limit` bytes, and the peak.

        A model whose computation depends on the contents of tensors cannot be planned: it gets `wanted` and an empty
        peak; `unforeseen` gives the reason.

        Raises:
            UserError: not even single sequences fit.
        """
        sizes: BatchSizes | None = wanted
        while sizes is not None:
            try:
                peak = self.peak(sizes, length)
            except CONTENTS as error:
                self.unforeseen = f"its computation depends on the contents of tensors ({type(error).__name__})"
                logger.warning("memory for %s was not planned: %s", self.what, self.unforeseen)
                return wanted, Peak()
            if peak.total <= limit:
                return sizes, peak
            sizes = self.smaller(sizes, peak.parts)
        raise UserError(
            f"{self.what} of sequences of {length} tokens needs {peak.total / GIB:.4g} GiB at the smallest batch "
            f"sizes; device_memory allows {limit / GIB:.4g} GiB"
        )

    def smaller(self, sizes: BatchSizes, parts: Mapping[str, int]) -> BatchSizes | None:
        """Return the next smaller sizes, given `parts`, the bytes at the peak; None for the smallest sizes."""
        return sizes.smaller(parts)

    def peak(self, sizes: BatchSizes, length: int) -> Peak:
        """Return the peak bytes on the device while one super-batch is evaluated, without the inputs."""
        if not self._known:
            self.check_length(length)
            with self._on_the_cpu() as model:
                self.division, self._known = model.divide(length), True
        if self._question is None:
            return self._measured(sizes, length)
        question = {
            **self._question,
            "masked": sorted(self._masked),
            "perturbed": sorted(self._perturbed),
            "solved": sorted(self._solved),
            "computing": [str(self._dtype), str(self._device), self._streamed, self._kept],
            "sizes": [asdict(sizes), length, self._tickets],
        }
        return Peak(**remembered(question, lambda: asdict(self._measured(sizes, length))))

    def _measured(self, sizes: BatchSizes, length: int) -> Peak:
        with left_as_it_was(self._skeleton) as skeleton, fake() as mode, _unpacked_sequences():
            if self.division is not None:
                _keep_two_of_a_kind(
                    cast(nn.ModuleList, skeleton.get_submodule(self._manifest.blocks)), self.division.as_tuple
                )
            for module in skeleton.modules():
                for name, buffer in module.named_buffers(recurse=False):
                    module._buffers[name] = mode.from_tensor(buffer)
            input_ids = torch.zeros((sizes.super_batch, length), dtype=torch.long)
            counter = ByteCounter(self._device)
            fetch, *further = self._fetches(counter)
            division = self._as_fake(skeleton, fetch, length)
            streamed = division is not None
            with counter:
                model = LabelledModel(
                    skeleton, self._manifest, fetch, self._device, streamed, division, further=further
                )
                model.counter = counter
                self._run(model, fetch, input_ids, sizes)
        if not self._kept:
            return counter.peak
        return Peak(counter.peak.total + self._kept, {**counter.peak.parts, KEPT: self._kept})

    def _run(self, model: "LabelledModel", fetch: Fetch, input_ids: torch.Tensor, sizes: BatchSizes) -> None:  # noqa: ARG002
        """Run the computation to plan."""
        with model.counter.labelled(TOP_TOKENS):
            observers = [self._observe() if self._observe else None for _ in range(self._tickets)]
        walk(model, input_ids, sizes.micro_batch, sizes.chunk, observers)

    def _as_fake(self, skeleton: nn.Module, fetch: Fetch, length: int) -> Division | None:
        """Return the division of a pass over fake tensors.

        A model that reads the values of an attention mask before it uses it cannot do so here. So it may call its
        blocks differently from a real run.
        """
        if self.division is None:
            return None
        model = CausalModel(skeleton, self._manifest, fetch, self._device, True)
        rules, _ = model.probe(length, partial(find_rules, as_tuple=self.division.as_tuple))
        return replace(self.division, rules=rules)

    def check_length(self, length: int) -> None:
        """Raise UserError if the sequences are too long for the model."""
        with self._on_the_cpu() as model:
            model.check_length(length)

    @contextmanager
    def _on_the_cpu(self) -> Iterator[CausalModel]:
        """Give the skeleton itself, for a probe; without fake tensors, since the probe reads values."""

        def zeros(name: str) -> torch.Tensor:
            return torch.zeros((), dtype=self._dtype).expand(self._manifest.tensors[name].shape)

        with left_as_it_was(self._skeleton) as skeleton:
            yield CausalModel(skeleton, self._manifest, zeros, torch.device("cpu"), self._streamed)

    def _fetches(self, counter: ByteCounter) -> list[Fetch]:
        """Return a fetch of fake checkpoint tensors for each ticket."""
        if self._tickets == 1:
            return [self._fetch(counter)]
        masked, dense, in_blocks = self._placed(), self._placed(masked=False), self._manifest.in_blocks
        bits = self._bits().get
        if self._device.type == "cpu":
            fetches = [masked] * self._tickets
        else:
            fetches = copied_once(dense, [bits] * self._tickets, in_blocks)
        return [self._labelled(counter, fetch) for fetch in fetches]

    def _fetch(self, counter: ByteCounter) -> Fetch:
        """Return a fetch of fake checkpoint tensors."""
        change, names = self._perturbation, self._perturbed
        placed = self._placed()
        return self._labelled(counter, perturbing(placed, change, names, self._manifest) if change else placed)

    def _bits(self) -> dict[str, torch.Tensor]:
        entries = self._manifest.tensors
        return {name: torch.empty((prod(entries[name].shape) + 7) // 8, dtype=torch.uint8) for name in self._masked}

    def _placed(self, masked: bool = True) -> Fetch:
        """Return a fetch through the same `place` as the real one."""
        entries, others = self._manifest.tensors, other_dtypes(self._skeleton, self._dtype)
        stored = {n: torch.empty(e.shape, dtype=getattr(torch, TORCH_NAMES[e.dtype])) for n, e in entries.items()}
        bits = self._bits() if masked else {}

        def placed(name: str) -> torch.Tensor:
            dtype = others.get(name, self._dtype)
            if name in self._solved:  # put in its places in the stored dtype first
                return place(torch.empty_like(stored[name]), None, self._device, dtype)
            return place(stored[name], bits.get(name), self._device, dtype)

        return placed

    def _labelled(self, counter: ByteCounter, fetch: Fetch) -> Fetch:
        """Count what a fetch creates as weights and masks, and what follows as hidden states."""

        def labelled(name: str) -> torch.Tensor:
            weights = BLOCK if self._manifest.in_blocks(name) else OUTSIDE
            with counter.labelled(lambda tensor: weights if tensor.is_floating_point() else MASK):
                values = fetch(name)
            counter.label = HIDDEN
            return values

        return labelled


def fit_together(
    planner: Callable[[int], EvaluationPlanner], most: int, sizes: BatchSizes, length: int, limit: float
) -> tuple[int, Peak | None]:
    """Return how many tickets share a pass within `limit` bytes, at most `most`, and its peak; None for one alone.

    Each has the batch sizes that it would have alone, so its result is the same.

    Args:
        planner: returns the planner for a number of tickets.
        most: largest number of tickets.
        sizes: batch sizes of one ticket.
        length: tokens in a sequence.
        limit: bytes that tensors may take.
    """
    while most > 1:
        peak = planner(most).peak(sizes, length)
        if peak.total <= limit:
            return most, peak
        most //= 2
    return 1, None


def _keep_two_of_a_kind(blocks: nn.ModuleList, as_tuple: bool) -> None:
    """Make a block just pass on its input if two blocks with weights of the same shapes come before it and two after.

    Such blocks would only take time. Two remain because the weights of the next block arrive while one still computes,
    and at both ends because a pass may go both ways.
    """
    kinds = [
        (type(block), *((name, parameter.shape) for name, parameter in block.named_parameters())) for block in blocks
    ]
    after = Counter(kinds)
    before: Counter[Any] = Counter()
    for block, kind in zip(blocks, kinds, strict=True):
        after[kind] -= 1
        if before[kind] >= 2 and after[kind] >= 2:
            for module in block.modules():
                module._parameters.clear()
                module._buffers.clear()
            block.forward = _pass_on_tuple if as_tuple else _pass_on
        before[kind] += 1


def _pass_on(hidden_states: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return hidden_states


def _pass_on_tuple(hidden_states: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor]:
    return (hidden_states,)


class LabelledModel(CausalModel):
    """Counts tensors created while a block is in use as activations, and while the head is in use as logits.

    Only three of many parts are computed: all take the same memory, and space for all results exists from the first.
    """

    counter: ByteCounter

    def parts(self, total: int, size: int) -> list[Span]:
        """Return the first two parts and the last."""
        parts = super().parts(total, size)
        return parts if len(parts) < 4 else [*parts[:2], parts[-1]]

    @contextmanager
    def block(self, name: str, weights: Mapping[str, nn.Parameter]) -> Iterator[None]:
        """Do the same as `CausalModel.block`, and count."""
        with super().block(name, weights), self.counter.labelled(ACTIVATIONS):
            del weights
            yield

    @contextmanager
    def head(self) -> Iterator[None]:
        """Do the same as `CausalModel.head`, and count."""
        with super().head(), self.counter.labelled(LOGITS):
            yield


@contextmanager
def _unpacked_sequences() -> Iterator[None]:
    """Give transformers what it otherwise reads from the values of position ids, which fake tensors lack.

    If it cannot read them, it assumes that several texts are packed in a row, and creates an attention mask for each
    row.
    """
    from transformers import masking_utils

    look = masking_utils.find_packed_sequence_indices
    masking_utils.find_packed_sequence_indices = lambda position_ids: None  # noqa: ARG005
    try:
        yield
    finally:
        masking_utils.find_packed_sequence_indices = look
