"""A folder as Hugging Face tools write it, checked before transformers reads it."""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ltpipe.checkpoints.filenames import CONFIG, WEIGHTS
from ltpipe.checkpoints.header import TensorSpec
from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.jsonfiles import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

_ADAPTER = "adapter_config.json"
_INDEX = f"{WEIGHTS}.index.json"
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_QUANTISED = ("quantization_config", "compression_config")
_SHARD = re.compile(r"model.*-\d{5}-of-(\d{5}).*\.safetensors")
_VARIANT = re.compile(r"model\.safetensors\.index\.([\w-]+)\.json|model\.([\w-]+?)\.safetensors")


@dataclass(frozen=True)
class PlainFolder:
    """A complete folder that transformers can read.

    Attributes:
        path: the folder.
        config: the causal language model's configuration: the text model's, if the checkpoint also reads images or
            sound.
        specs: the tensors in its files.
        variant: variant in the weights' file names (`fp16` in `model.fp16.safetensors`), None for the plain ones.
        renames: patterns of names in the files, to the text model's own names.
    """

    path: Path
    config: "PreTrainedConfig"
    specs: Mapping[str, TensorSpec]
    variant: str | None = None
    renames: Mapping[str, str] = field(default_factory=dict)


def read_folder(folder: Path, key: str) -> PlainFolder:
    """Check a folder, and reject what transformers would fail on later, or read in a way that ltpipe does not allow.

    Args:
        folder: the folder.
        key: configuration key of the source, for error messages.

    Raises:
        UserError: it is incomplete, damaged, quantised or an adapter, or describes a far larger model than it contains.
    """
    if (folder / _ADAPTER).is_file():
        raise UserError(
            f"{key}: '{folder}' contains an adapter ({_ADAPTER}); merge the adapter first: "
            "peft.AutoPeftModelForCausalLM.from_pretrained(…).merge_and_unload().save_pretrained(…)"
        )
    if not (folder / CONFIG).is_file():
        raise UserError(f"{key}: '{folder}' has no {CONFIG}; use a folder written by save_pretrained")
    content = read_json(folder / CONFIG)
    parts = (content, *(part for part in content.values() if isinstance(part, dict)))
    if any(part.get(name) for part in parts for name in _QUANTISED):
        raise UserError(f"{key}: '{folder}' is quantised; masks need the original weights, load an unquantised model")
    variant = _variant(folder, key)
    specs: dict[str, TensorSpec] = {}
    for shard in _shards(folder, variant, key):
        file = TensorFile(folder / shard)
        if file.elsewhere:
            raise UserError(
                f"{key}: '{folder}' is a checkpoint of ltpipe, whose tensors are in {min(file.elsewhere)}; use that "
                "file's folder"
            )
        file.check_all()
        specs |= file.specs
    for name in _LAYERS:
        if isinstance(layers := content.get(name), int) and layers > len(specs):
            raise UserError(f"{key}: '{folder}' has {len(specs)} tensors, too few for {name} {layers} in {CONFIG}")
    return _described(folder, specs, variant, key)


def of_text(config: "PreTrainedConfig", place: str, key: str) -> "PreTrainedConfig":
    """Return the configuration of the causal text model inside a larger model; `config` itself if it is a text model.

    Args:
        config: a checkpoint's configuration.
        place: where it comes from, for error messages.
        key: configuration key of `place`, for error messages.

    Raises:
        UserError: transformers has no class for the larger model's language model alone.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    text = config.get_text_config()
    if text is config or (
        type(text) not in MODEL_FOR_CAUSAL_LM_MAPPING and type(config) in MODEL_FOR_CAUSAL_LM_MAPPING
    ):
        return config
    if type(text) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UserError(
            f"{key}: '{place}' is a {config.model_type}, and transformers has no class for its language model alone "
            f"({text.model_type}); load a text model"
        )
    text.tie_word_embeddings = config.tie_word_embeddings  # the outer configuration decides whether the head is tied
    text.dtype = text.dtype or config.dtype
    return text


def unloadable(place: Path, error: Exception, key: str) -> str:
    """Return the error message for an exception from transformers; `key` is the configuration key of the source."""
    reason = str(error).strip().split("\n")[0]
    return f"{key}: transformers cannot load '{place}' as a causal language model: {reason}"


def _variant(folder: Path, key: str) -> str | None:
    """Return which of several sets of weights to read: the plain one, or else the only other one."""
    if (folder / WEIGHTS).is_file() or (folder / _INDEX).is_file():
        return None
    names = sorted(path.name for path in folder.iterdir())
    shards = [name for name in names if _SHARD.fullmatch(name)]
    found = [match for name in names if name not in shards and (match := _VARIANT.fullmatch(name))]
    if len(variants := {match[1] or match[2] for match in found}) == 1:
        return variants.pop()
    if found:
        raise UserError(
            f"{key}: '{folder}' has no {WEIGHTS} but {' and '.join(match[0] for match in found)}; keep only one"
        )
    if shards:
        raise UserError(
            f"{key}: '{folder}' has {shards[0]} but no {_INDEX}, which maps tensors to shards; fetch it too"
        )
    others = [name for name in names if name.endswith(".safetensors")]
    if others:
        raise UserError(
            f"{key}: '{folder}' has no {WEIGHTS} but {', '.join(others[:3])}, which transformers does not look for; "
            f"use {WEIGHTS}, or shards with {_INDEX}"
        )
    raise UserError(f"{key}: '{folder}' has no {WEIGHTS}; pickled weights are never read, convert them to safetensors")


def _shards(folder: Path, variant: str | None, key: str) -> Iterator[str]:
    """Yield the file names of a set of weights, after checking that each file exists."""
    single = f"model.{variant}.safetensors" if variant else WEIGHTS
    if (folder / single).is_file():
        yield single
        return
    index = folder / (f"{WEIGHTS}.index.{variant}.json" if variant else _INDEX)
    content = read_json(index)
    named = content.get("weight_map")
    if not isinstance(named, dict) or not all(isinstance(shard, str) for shard in named.values()):
        raise UserError(f"{key}: '{index}' has no weight_map from tensors to shards; fetch it again")
    for shard in sorted(set(named.values())):
        if not shard or shard != Path(shard).name or "\0" in shard:
            raise UserError(f"{key}: '{index}' names {shard!r}, which is not a file beside the index; fetch it again")
        if not (folder / shard).is_file():
            raise UserError(f"{key}: '{folder}' has no shard {shard}, which its index names; fetch it again")
        yield shard
    if not isinstance(content.get("metadata"), dict):
        raise UserError(f"{key}: '{index}' has no metadata, which transformers requires; add \"metadata\": {{}} to it")


def _described(folder: Path, specs: Mapping[str, TensorSpec], variant: str | None, key: str) -> PlainFolder:
    """Read a folder's configuration; reject one far larger than the files before memory is allocated for it."""
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # a damaged configuration raises anything
        raise UserError(unloadable(folder, error, key)) from None
    text = of_text(config, str(folder), key)
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(text, trust_remote_code=False)
    except Exception as error:  # a damaged configuration raises anything
        raise UserError(unloadable(folder, error, key)) from None
    held = sum(spec.size for spec in specs.values())
    if (described := sum(parameter.numel() for parameter in model.parameters())) > 2 * held:
        raise UserError(
            f"{key}: '{folder}' has {held:,} weights, but its {CONFIG} describes a model with {described:,}; "
            "it is incomplete or does not match its configuration"
        )
    return PlainFolder(folder, text, specs, variant, {} if text is config else _renames(specs, model))


def _renames(names: Collection[str], model: "PreTrainedModel") -> dict[str, str]:
    """Return patterns of a larger model's names, to its text model's names; embedding and head give the prefixes."""
    owners = {id(module): name for name, module in model.named_modules()}
    embedding, head = owners[id(model.get_input_embeddings())], owners[id(model.get_output_embeddings())]
    base = f"{model.base_model_prefix}."
    renames = {}
    for prefix, rest in ((base, embedding.removeprefix(base)), ("", head)):
        found = [name for name in names if name.endswith(f".{rest}.weight")]
        if f"{prefix}{rest}.weight" not in names and len(found) == 1:
            theirs = found[0].removesuffix(f"{rest}.weight")
            only = "" if prefix else f"{rest}."  # a head has no prefix of its own
            renames[f"^{re.escape(theirs + only)}"] = prefix + only
    return renames
