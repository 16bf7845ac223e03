"""The load stage: from any source to the canonical folder.

A canonical folder contains `model.safetensors` (the live model's own parameter names, tied parameters once),
`config.json`, `generation_config.json`, `tokenizer.json`, `tokenizer_config.json` and `manifest.json`. The tensors are
those that transformers computes with after its renaming and fusing, so no later stage has to translate; those that a
local source has with the same bytes are read there. Code from a checkpoint is never run, and pickled weights are never
read.
"""

import json
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltpipe.checkpoints.contents import chunks_of, digest_of, manifest_of, stored_tensors
from ltpipe.checkpoints.filenames import CONFIG, GENERATION_CONFIG, MANIFEST, TOKENIZER, TOKENIZER_CONFIG, WEIGHTS
from ltpipe.checkpoints.header import widest_first
from ltpipe.checkpoints.live import live_model
from ltpipe.checkpoints.manifest import Manifest, Walks
from ltpipe.checkpoints.originals import Originals, as_metadata
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
"""Maps a configuration to how its model may be walked; raises UserError if it cannot be walked at all."""


def load_checkpoint(
    source: Source,
    tokenizer: Source | None,
    dtype: str,
    folder: Path,
    judge: Judge | None = None,
    *,
    in_place: bool = False,
) -> Manifest:
    """Load a model and its tokenizer, and write them as a canonical folder.

    Args:
        source: the model: Hub repository, folder (sharded or not) or GGUF file.
        tokenizer: the tokenizer, if it is not beside the model.
        dtype: dtype of the stored floating-point tensors; `auto` keeps theirs (GGUF is dequantised to float32).
        folder: folder to write.
        judge: decides how the model may be walked, for the manifest; without it, every kind of walk is allowed.
        in_place: whether tensors that need no change stay where they are, if the source is the path of a folder.

    Raises:
        UserError: the source is damaged, incomplete, quantised or pickled, or has an architecture that transformers
            cannot build without code from the checkpoint.
    """
    logger.info("loading %s", source.text)
    place = source.local(_HUB_FILES, "model")
    model = live_model(place, dtype, source.key)
    words = read_tokenizer(tokenizer.local(_HUB_FILES, "model") if tokenizer else place, (tokenizer or source).key)
    commit = f" commit {place.name}" if source.is_hub else ""
    walks = judged(model.config, judge, source.key) if judge else Walks()
    originals = Originals(place) if in_place and source.is_path and place.is_dir() else None
    return write_canonical(model, words, folder, source.identity + commit, walks, originals)


def judged(config: "PretrainedConfig", judge: Judge, key: str) -> Walks:
    """Return the verdict of `judge`, and log what works differently than for most models.

    Raises:
        UserError: the model cannot be walked; the message names the configuration's `key`.
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
    originals: Originals | None = None,
) -> Manifest:
    """Write a live model as a canonical folder; the manifest comes last, so a folder with a manifest is complete.

    Tensors with an original are not copied.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = stored_tensors(model)
    digests = {name: digest_of(tensor) for name, tensor in track(tensors.items(), "hashing")}
    manifest = manifest_of(model, source, digests)
    entries = manifest.tensors
    found = {name: original for name in entries if originals and (original := originals.find(tensors[name]))}
    order = sorted(entries.keys() - found.keys(), key=lambda name: widest_first(name, entries[name].dtype))
    write_tensors(
        folder / WEIGHTS,
        [TensorData(name, entries[name].dtype, entries[name].shape, chunks_of(tensors[name])) for name in order],
        {"format": "pt", **as_metadata(found, tensors, folder)},
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
        del content[private]  # where it was loaded from, not part of the model
    content["architectures"] = [type(model).__name__]
    content["dtype"] = str(model.dtype).removeprefix("torch.")
    _write_json(content, path)


def _write_generation_config(model: "PreTrainedModel", path: Path) -> None:
    """Write the sampling settings: the source's own, or else those that transformers derives from the configuration."""
    from transformers import GenerationConfig

    chosen = model.generation_config or GenerationConfig.from_model_config(model.config)
    said: dict[str, Any] = json.loads(chosen.to_json_string(use_diff=True))
    _write_json(
        {key: value for key, value in said.items() if key not in ("transformers_version", "_from_model_config")}, path
    )


def _write_json(content: dict[str, Any], path: Path) -> None:
    with atomic_write(path) as file:
        file.write(json.dumps(content, indent=1, sort_keys=True).encode() + b"\n")
