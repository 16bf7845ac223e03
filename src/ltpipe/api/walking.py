"""The streamed walk of a causal language model in memory, as the score stage walks a checkpoint."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ltpipe.checkpoints.contents import stored_tensors
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.evaluation.plan import BatchSizes
from ltpipe.scoring.criterion import Criterion
from ltpipe.scoring.streamed import ChangingFetch, StreamedSubject
from ltpipe.streaming.model import CausalModel
from ltpipe.streaming.offload import left_as_it_was

_SAME = 1e-2  # relative; the effect of another micro-batch in bfloat16 stays below, that of shared state exceeds it


@contextmanager
def walking(
    module: nn.Module,
    manifest: Manifest,
    names: Sequence[str],
    rule: type[Criterion],
    ids: torch.Tensor,
    options: Any,
) -> Iterator[StreamedSubject]:
    """Give a live model as the subject of a criterion; afterwards every module has its own tensors again.

    Batches are split as the score stage splits them when memory does not matter. A model whose streamed walk does not
    match its own forward pass runs whole.

    Args:
        module: on any device, in evaluation mode.
        manifest: its checkpoint's manifest.
        names: the weights to score, all inside the blocks.
        rule: the criterion; may require a precision or a micro-batch.
        ids: int64 [sequences, tokens].
        options: the criterion's options.
    """
    stored = stored_tensors(module)
    dtype = getattr(torch, rule.precision) if rule.precision else None

    def own(name: str) -> torch.Tensor:
        return stored[name].to(dtype) if dtype and stored[name].is_floating_point() else stored[name]

    def on_host(name: str) -> torch.Tensor:
        return stored[name].float().cpu()

    with left_as_it_was(module), tempfile.TemporaryDirectory() as scratch:
        fetch = ChangingFetch(own)
        walk = CausalModel(module, manifest, fetch, next(module.parameters()).device, streamed=True)
        if walk.divide(ids.shape[1]) is not None and not _is_own_forward(walk, ids[:3, :8]):
            walk.give_up_streaming("its blocks share more than hidden states")
        sizes = BatchSizes.generous(len(ids), ids.shape[1], rule.batch or 0)
        yield StreamedSubject(walk, fetch, names, ids, sizes, on_host, Path(scratch), options)


def _is_own_forward(walk: CausalModel, ids: torch.Tensor) -> bool:
    """Return whether the streamed walk gives the hidden states of the model's own forward pass."""

    def run(name: str, own_forward: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
        with walk.block(name, walk.fetch_block(name)):
            return own_forward(*args, **kwargs)

    with walk.streaming(run):
        whole = walk.split.hidden_states(ids.to(walk.device))
    parts = walk.hidden_states(ids, 1)
    return bool((parts - whole).norm() <= _SAME * whole.norm())
