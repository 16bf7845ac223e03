"""Greedy continuations of contexts, one token at a time, by the model's own `generate`."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.filenames import GENERATION_CONFIG
from ltpipe.runtime.jsonfiles import read_json
from ltpipe.runtime.progress import track
from ltpipe.streaming.model import CausalModel
from ltpipe.tasks.requests import Generation, Requests

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def generated(model: CausalModel, checkpoint: Checkpoint, asked: Requests) -> list[str]:
    """Return the continuation of each request of kind `generate_until`, as the harness returns it.

    Each context is continued by itself, so no result depends on the others: the text of the most likely tokens, up to
    the end-of-text token, a stop, or the most tokens allowed. The checkpoint's generation configuration applies, for
    example its repetition penalty. Streamed models fetch every block once a token.
    """
    contexts = [tokens for tokens, predicted in zip(asked.windows(), asked.predicted, strict=True) if not predicted]
    if not contexts:
        return []
    from transformers import AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder, trust_remote_code=False)
    live: Any = model.split.model
    live.generation_config = GenerationConfig.from_dict(read_json(checkpoint.verified(GENERATION_CONFIG)))
    return [
        _continued(model, tokenizer, context, wanted)
        for context, wanted in track(list(zip(contexts, asked.generations, strict=True)), "generating", "text")
    ]


@torch.inference_mode()
def _continued(
    model: CausalModel, tokenizer: "PreTrainedTokenizerBase", context: np.ndarray, wanted: Generation
) -> str:
    ids = torch.from_numpy(context.astype(np.int64)).unsqueeze(0).to(model.device)
    with _walking(model, ids.shape[1]):
        live: Any = model.split.model
        found = live.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=wanted.room,
            pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
            stopping_criteria=[_Stopped(tokenizer, ids.shape[1], wanted.stops)],
        )
    text = _text(tokenizer, found[0, ids.shape[1] :])
    for stop in wanted.stops:
        text = text.split(stop)[0] if stop else text
    return text


def _walking(model: CausalModel, length: int) -> AbstractContextManager[None]:
    """Give blocks their weights when they run; a model that cannot be streamed gets all of them for good."""
    if model.divide(length) is None:
        model.load_whole()
        return nullcontext()

    def run(name: str, own_forward: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
        with model.block(name, model.fetch_block(name)):
            return own_forward(*args, **kwargs)

    return model.streaming(run)


class _Stopped:
    """Ends a generation as soon as its text contains a stop."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", start: int, stops: Sequence[str]) -> None:
        self._tokenizer, self._start, self._stops = tokenizer, start, [stop for stop in stops if stop]

    def __call__(self, ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        text = _text(self._tokenizer, ids[0, self._start :])
        stopped = any(stop in text for stop in self._stops)
        return torch.full((len(ids),), stopped, dtype=torch.bool, device=ids.device)


def _text(tokenizer: "PreTrainedTokenizerBase", ids: torch.Tensor) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True))
