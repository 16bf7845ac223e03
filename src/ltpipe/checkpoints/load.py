"""The load stage: any source to the canonical folder.

A canonical folder holds `model.safetensors` (the live model's own parameter names, tied parameters once),
`config.json`, `tokenizer.json`, `tokenizer_config.json` and `manifest.json`. The tensors are those that transformers
computes with after its renaming and fusing, so that no later stage has to translate. Code from a checkpoint is never
run, and pickled weights are never read.
"""

import hashlib
import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ltpipe.checkpoints.contents import manifest_of, stored_tensors
from ltpipe.checkpoints.header import STORAGE
from ltpipe.checkpoints.layout import CONFIG, MANIFEST, TOKENIZER, TOKENIZER_CONFIG, WEIGHTS
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.checkpoints.tensorwriter import TensorData, write_tensors
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.files import atomic_write, sha256_of
from ltpipe.runtime.jsonfiles import read_json
from ltpipe.runtime.progress import track
from ltpipe.runtime.sources import Source

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_HUB_FILES = ["*.safetensors", "*.json", "tokenizer*", "*.model", "merges.txt", "vocab*", "chat_template.jinja"]
_CHUNK = 1 << 24
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")


def load_checkpoint(source: Source, tokenizer: Source | None, dtype: str, folder: Path) -> Manifest:
    """Load a model and its tokenizer, and write them as a canonical folder.

    Args:
        source: of the model: Hub repository, folder (sharded or not) or GGUF file.
        tokenizer: of the tokenizer, if it does not lie beside the model.
        dtype: to store floating-point tensors in; `auto` keeps them as they are (GGUF is dequantised to float32).
        folder: to write to.

    Raises:
        UserError: the source is damaged, incomplete, quantised, pickled, or of an architecture that transformers
            cannot build without code from the checkpoint.
    """
    logger.info("loading %s", source.text)
    place = source.local(_HUB_FILES, "model")
    model = _model(place, dtype, source.key)
    words = _tokenizer(tokenizer.local(_HUB_FILES, "model") if tokenizer else place, (tokenizer or source).key)
    commit = f" commit {place.name}" if source.is_hub else ""
    return write_canonical(model, words, folder, source.identity + commit)


def write_canonical(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", folder: Path, source: str
) -> Manifest:
    """Write a live model as a canonical folder; the manifest comes last, so that a folder with one is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = stored_tensors(model)
    digests = {name: _sha256(tensor) for name, tensor in track(tensors.items(), "hashing")}
    manifest = manifest_of(model, source, digests)
    entries = manifest.tensors
    # The widest elements first: then every tensor starts at a multiple of its own element size.
    order = sorted(entries, key=lambda name: (-np.dtype(STORAGE[entries[name].dtype]).itemsize, name.encode()))
    write_tensors(
        folder / WEIGHTS,
        [TensorData(name, entries[name].dtype, entries[name].shape, _chunks(tensors[name])) for name in order],
        {"format": "pt"},
    )
    _write_config(model, folder / CONFIG)
    _write_tokenizer(tokenizer, folder)
    files = {name: sha256_of(folder / name) for name in (CONFIG, TOKENIZER, TOKENIZER_CONFIG)}
    manifest = replace(manifest, files=files)
    manifest.write(folder / MANIFEST)
    return manifest


def _model(place: Path, dtype: str, key: str) -> "PreTrainedModel":
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()  # what it warns of is refused below, in one line
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()
    where = {"gguf_file": place.name} if place.is_file() else {}
    if place.is_file() and place.suffix != ".gguf":
        raise UserError(f"{key}: '{place}' is no model; allowed are a .gguf file and a folder with safetensors")
    if place.is_dir():
        _check_folder(place, key)
    kept = getattr(torch, dtype) if dtype != "auto" else torch.float32 if where else "auto"
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            place.parent if where else place,
            dtype=kept,
            use_safetensors=None if where else True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in the report, and refused below by name
            **where,
        )
    except Exception as error:  # damaged configurations and GGUF files raise anything, struct.error included
        raise UserError(_unloadable(place, error, key)) from None
    for problem in ("missing_keys", "mismatched_keys"):
        if report.get(problem):
            names = sorted(str(name[0] if isinstance(name, tuple) else name) for name in report[problem])
            raise UserError(
                f"{key}: '{place}' has {problem.replace('_', ' ')} {', '.join(names[:3])}{' …' * (len(names) > 3)}; "
                "it is incomplete or does not fit its configuration"
            )
    if unused := sorted(report.get("unexpected_keys") or ()):
        logger.warning(
            "%s: %d tensors of '%s' are no part of the model and are left out: %s%s",
            key,
            len(unused),
            place,
            ", ".join(unused[:3]),
            " …" * (len(unused) > 3),
        )
    return model.eval()


def _check_folder(folder: Path, key: str) -> None:
    """Refuse what transformers would stumble over later, or read in a way that we do not allow."""
    if not (folder / CONFIG).is_file():
        raise UserError(f"{key}: '{folder}' holds no {CONFIG}; allowed is a folder that save_pretrained wrote")
    if "quantization_config" in read_json(folder / CONFIG):
        raise UserError(f"{key}: '{folder}' is quantised; masks need the original weights, load an unquantised model")
    index = folder / f"{WEIGHTS}.index.json"
    single = (folder / WEIGHTS).is_file()
    if not single and not index.is_file():
        raise UserError(f"{key}: '{folder}' holds no {WEIGHTS}; pickled weights are never read, convert to safetensors")
    named = {"": WEIGHTS} if single else read_json(index).get("weight_map")
    if not isinstance(named, dict) or not all(isinstance(shard, str) for shard in named.values()):
        raise UserError(f"{key}: '{index}' has no weight_map from tensors to shards; fetch it again")
    sizes: list[int] = []
    for shard in sorted(set(named.values())):
        if not shard or shard != Path(shard).name or "\0" in shard:
            raise UserError(f"{key}: '{index}' names {shard!r}; allowed are files beside its index, fetch it again")
        if not (folder / shard).is_file():
            raise UserError(f"{key}: '{folder}' lacks the shard {shard} that its index names; fetch it again")
        file = TensorFile(folder / shard)
        file.check_all()
        sizes += [spec.size for spec in file.specs.values()]
    _check_size(folder, sizes, key)


def _check_size(folder: Path, sizes: list[int], key: str) -> None:
    """Refuse a configuration of a far larger model than the files hold, before room is made for it."""
    from transformers import AutoConfig, AutoModelForCausalLM

    content = read_json(folder / CONFIG)
    for name in _LAYERS:
        if isinstance(layers := content.get(name), int) and layers > len(sizes):
            raise UserError(f"{key}: '{folder}' has {len(sizes)} tensors, too few for {name} {layers} in {CONFIG}")
    try:
        with torch.device("meta"):
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:  # a damaged configuration raises anything
        raise UserError(_unloadable(folder, error, key)) from None
    if (described := sum(parameter.numel() for parameter in model.parameters())) > 2 * sum(sizes):
        raise UserError(
            f"{key}: '{folder}' holds {sum(sizes):,} weights, its {CONFIG} describes a model of {described:,}; "
            "it is incomplete or does not fit its configuration"
        )


def _unloadable(place: Path, error: Exception, key: str) -> str:
    reason = str(error).strip().split("\n")[0]
    return f"{key}: transformers cannot load '{place}' as a causal language model: {reason}"


def _tokenizer(place: Path, key: str) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer

    where = {"gguf_file": place.name} if place.is_file() else {}
    try:
        return AutoTokenizer.from_pretrained(
            place.parent if where else place, local_files_only=True, trust_remote_code=False, **where
        )
    except Exception as error:  # tokenizer back ends raise anything, ImportError and TypeError included
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"{key}: no tokenizer in '{place}' ({reason}); name one with the model's key tokenizer"
        ) from None


def _chunks(tensor: torch.Tensor) -> Iterator[np.ndarray]:
    """A tensor's values in row-major order as NumPy arrays; bfloat16 as its bit patterns."""
    flat = tensor.contiguous().reshape(-1)
    bits = flat.view(torch.uint16) if flat.dtype == torch.bfloat16 else flat
    for start in range(0, bits.numel(), _CHUNK):
        yield bits[start : start + _CHUNK].numpy()


def _sha256(tensor: torch.Tensor) -> str:
    digest = hashlib.sha256()
    for chunk in _chunks(tensor):
        digest.update(memoryview(chunk).cast("B"))
    return digest.hexdigest()


def _write_config(model: "PreTrainedModel", path: Path) -> None:
    content: dict[str, Any] = json.loads(model.config.to_json_string())
    content.pop("quantization_config", None)
    for private in [key for key in content if key.startswith("_")]:
        del content[private]  # where it was loaded from: no part of the model
    content["architectures"] = [type(model).__name__]
    content["dtype"] = str(model.dtype).removeprefix("torch.")
    with atomic_write(path) as file:
        file.write(json.dumps(content, indent=1, sort_keys=True).encode() + b"\n")


def _write_tokenizer(tokenizer: "PreTrainedTokenizerBase", folder: Path) -> None:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError(f"{type(tokenizer).__name__} has no fast form (tokenizer.json); name another tokenizer")
    special = {key: str(value) for key, value in tokenizer.special_tokens_map.items() if isinstance(value, str)}
    with atomic_write(folder / TOKENIZER) as file:
        file.write(backend.to_str(pretty=False).encode())
    with atomic_write(folder / TOKENIZER_CONFIG) as file:
        chat = {"chat_template": template} if isinstance(template := tokenizer.chat_template, str) else {}
        content = {"tokenizer_class": type(tokenizer).__name__, **special, **chat}
        file.write(json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n")
