"""The load stage: any source to the canonical folder.

A canonical folder holds `model.safetensors` (the live model's own parameter names, tied parameters once),
`config.json`, `generation_config.json`, `tokenizer.json`, `tokenizer_config.json` and `manifest.json`. The tensors are
those that transformers computes with after its renaming and fusing, so that no later stage has to translate. Code from
a checkpoint is never run, and pickled weights are never read.
"""

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ltpipe.checkpoints.contents import chunks_of, digest_of, manifest_of, stored_tensors
from ltpipe.checkpoints.header import STORAGE
from ltpipe.checkpoints.layout import CONFIG, GENERATION_CONFIG, MANIFEST, TOKENIZER, TOKENIZER_CONFIG, WEIGHTS
from ltpipe.checkpoints.live import live_model
from ltpipe.checkpoints.manifest import Manifest, Walks
from ltpipe.checkpoints.tensorwriter import TensorData, write_tensors
from ltpipe.checkpoints.tokenizer import read_tokenizer, write_tokenizer
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.files import atomic_write, sha256_of
from ltpipe.runtime.progress import track
from ltpipe.runtime.sources import Source

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_HUB_FILES = ["*.safetensors", "*.json", "tokenizer*", "*.model", "merges.txt", "vocab*", "chat_template.jinja"]


Judge = Callable[["PretrainedConfig"], Walks]
"""Says of a configuration how its model may be walked; raises UserError if not at all."""


def load_checkpoint(
    source: Source, tokenizer: Source | None, dtype: str, folder: Path, judge: Judge | None = None
) -> Manifest:
    """Load a model and its tokenizer, and write them as a canonical folder.

    Args:
        source: of the model: Hub repository, folder (sharded or not) or GGUF file.
        tokenizer: of the tokenizer, if it does not lie beside the model.
        dtype: to store floating-point tensors in; `auto` keeps them as they are (GGUF is dequantised to float32).
        folder: to write to.
        judge: says how the model may be walked; what it says is kept in the manifest. Without it, as any may be.

    Raises:
        UserError: the source is damaged, incomplete, quantised, pickled, or of an architecture that transformers
            cannot build without code from the checkpoint.
    """
    logger.info("loading %s", source.text)
    place = source.local(_HUB_FILES, "model")
    model = live_model(place, dtype, source.key)
    words = read_tokenizer(tokenizer.local(_HUB_FILES, "model") if tokenizer else place, (tokenizer or source).key)
    commit = f" commit {place.name}" if source.is_hub else ""
    walks = judged(model.config, judge, source.key) if judge else Walks()
    return write_canonical(model, words, folder, source.identity + commit, walks)


def judged(config: "PretrainedConfig", judge: Judge, key: str) -> Walks:
    """What `judge` says, and in the log what does not go as it does for most models.

    Raises:
        UserError: the model cannot be walked; it names the configuration's `key`.
    """
    try:
        walks = judge(config)
    except UserError as error:
        raise UserError(f"{key}: {error}") from None
    for what, reason in (
        ("evaluated in memory, not block by block", walks.forward),
        ("scored in memory, not block by block", "" if walks.gradients else walks.backward),
        ("not scored by gradients", walks.gradients),
    ):
        if reason:
            logger.warning("%s: the model will be %s: %s", key, what, reason)
    return walks


def write_canonical(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    folder: Path,
    source: str,
    walks: Walks = Walks(),  # noqa: B008
) -> Manifest:
    """Write a live model as a canonical folder; the manifest comes last, so that a folder with one is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = stored_tensors(model)
    digests = {name: digest_of(tensor) for name, tensor in track(tensors.items(), "hashing")}
    manifest = manifest_of(model, source, digests)
    entries = manifest.tensors
    # The widest elements first: then every tensor starts at a multiple of its own element size.
    order = sorted(entries, key=lambda name: (-np.dtype(STORAGE[entries[name].dtype]).itemsize, name.encode()))
    write_tensors(
        folder / WEIGHTS,
        [TensorData(name, entries[name].dtype, entries[name].shape, chunks_of(tensors[name])) for name in order],
        {"format": "pt"},
    )
    _write_config(model, folder / CONFIG)
    _write_generation_config(model, folder / GENERATION_CONFIG)
    write_tokenizer(tokenizer, folder)
    files = {name: sha256_of(folder / name) for name in (CONFIG, GENERATION_CONFIG, TOKENIZER, TOKENIZER_CONFIG)}
    manifest = replace(manifest, files=files, walks=walks)
    for pattern, reason in manifest.left_out().items():
        logger.info("left out of pruning: %s (%s)", pattern, reason)
    manifest.write(folder / MANIFEST)
    return manifest


def _write_config(model: "PreTrainedModel", path: Path) -> None:
    content: dict[str, Any] = json.loads(model.config.to_json_string())
    content.pop("quantization_config", None)
    for private in [key for key in content if key.startswith("_")]:
        del content[private]  # where it was loaded from: no part of the model
    content["architectures"] = [type(model).__name__]
    content["dtype"] = str(model.dtype).removeprefix("torch.")
    _write_json(content, path)


def _write_generation_config(model: "PreTrainedModel", path: Path) -> None:
    """How to sample: as the source says beside its weights, else what transformers takes from the configuration."""
    from transformers import GenerationConfig

    chosen = model.generation_config or GenerationConfig.from_model_config(model.config)
    said: dict[str, Any] = json.loads(chosen.to_json_string(use_diff=True))
    _write_json(
        {key: value for key, value in said.items() if key not in ("transformers_version", "_from_model_config")}, path
    )


def _write_json(content: dict[str, Any], path: Path) -> None:
    with atomic_write(path) as file:
        file.write(json.dumps(content, indent=1, sort_keys=True).encode() + b"\n")
