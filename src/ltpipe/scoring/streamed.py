"""A checkpoint as the subject of a criterion, streamed because it may be larger than memory."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Literal

import torch

from ltpipe.evaluation.plan import BatchSizes
from ltpipe.pruning.layout import Layout
from ltpipe.scoring.activations import input_norms
from ltpipe.scoring.curvature import hessian_gradient_by_differences
from ltpipe.scoring.stored import Stored
from ltpipe.scoring.subject import Accumulator, AccumulatorType, Change, Deliver, embedding_of_ones
from ltpipe.streaming.backward import walk_gradients
from ltpipe.streaming.head import Objective, next_token_loss
from ltpipe.streaming.model import CausalModel
from ltpipe.streaming.offload import Fetch


class ChangingFetch:
    """Fetches weights, changed on the way if `change` is set."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self.change: Change | None = None

    def __call__(self, name: str) -> torch.Tensor:
        """Return the named tensor as used in the computation."""
        values = self._fetch(name)
        return values if self.change is None else self.change(name, values)


class StreamedSubject:
    """A checkpoint that is walked block by block, with the data to score it.

    Args:
        model: the model, which gets its weights through `fetch`.
        fetch: the model's fetch.
        names: weights to score, in canonical order, all in the blocks.
        sequences: calibration sequences, int64 [sequences, tokens].
        sizes: batch sizes; super-batches are not used.
        weight: reads a stored weight as float32 on the CPU.
        scratch: folder for data that is too large for memory.
        options: the criterion's options.
    """

    def __init__(
        self,
        model: CausalModel,
        fetch: ChangingFetch,
        names: Sequence[str],
        sequences: torch.Tensor,
        sizes: BatchSizes,
        weight: Fetch,
        scratch: Path,
        options: Any,
    ) -> None:
        self.names, self.weight, self.options = tuple(names), weight, options
        self._model, self._fetch, self._sequences, self._sizes = model, fetch, sequences, sizes
        self._scratch = scratch

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a weight."""
        return self._model.manifest.tensors[name].shape

    def gradients(self, make: AccumulatorType, deliver: Deliver, objective: Objective = next_token_loss) -> None:
        """Accumulate the gradients of every weight, and deliver the results of each block when it is done.

        Accumulators exist for one block at a time, or for all blocks if the model cannot be streamed.
        """
        sink = _Accumulators(make, self._sequences.shape[1] - 1, deliver)
        walk_gradients(
            self._model, self._sequences, self._sizes.micro_batch, self._sizes.chunk, self.names, sink, objective
        )

    def hessian_gradient(self, deliver: Deliver, objective: Objective = next_token_loss) -> None:
        """Deliver the Hessian of the loss times its gradient, from a difference of gradients."""
        hessian_gradient_by_differences(self, deliver, objective)

    def input_norms(self) -> dict[str, torch.Tensor]:
        """Return the L2 norm of each input of every weight over its tokens, float32 on the CPU; see `Subject`.

        Raises:
            UserError: a weight is not the matrix of a linear map.
        """
        model, micro_batch = self._model, self._sizes.micro_batch
        return input_norms(
            Layout.of(model.manifest),
            {name: self.shape(name) for name in self.names},
            model.offload.name_of,
            lambda: model.hidden_states(self._sequences, micro_batch),
        )

    @contextmanager
    def changed(self, change: Change) -> Iterator[None]:
        """Make the model compute with changed weights inside the context; unscored weights change too."""
        self._fetch.change = change
        self._model.reload()
        try:
            yield
        finally:
            self._fetch.change = None
            self._model.reload()

    def normalising(self, mode: Literal["eval", "train"]) -> AbstractContextManager[None]:  # noqa: ARG002
        """Do nothing: language models have no batch normalisation."""
        return nullcontext()

    def inputs_of_ones(self) -> AbstractContextManager[None]:
        """Make the embedding of every token ones inside the context."""
        return embedding_of_ones(self._model.split.model)

    @contextmanager
    def stored(self) -> Iterator[Stored]:
        """Give space on disk for one float32 per weight, initially zeros; removed on exit."""
        with TemporaryFile(dir=self._scratch) as file:
            yield Stored(file, {name: self.shape(name) for name in self.names})


class _Accumulators:
    """Gradients in, scores out."""

    def __init__(self, make: AccumulatorType, tokens: float, deliver: Deliver) -> None:
        self._make, self._tokens, self._deliver = make, tokens, deliver
        self._running: dict[str, Accumulator] = {}

    def add(self, name: str, weight: torch.Tensor, gradient: torch.Tensor) -> None:
        """Pass a gradient to the accumulator of its weight."""
        if name not in self._running:
            self._running[name] = self._make(weight.shape, weight.device, self._tokens)
        self._running[name].add(weight, gradient)

    def finish(self, block: str) -> None:
        """Deliver what belongs to a block."""
        for name in sorted(self._running):
            if name.startswith(f"{block}."):
                self._deliver(name, self._running.pop(name).result().cpu())
