"""The shapes of a model without its weights."""

import json
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ltpipe.checkpoints.contents import manifest_of
from ltpipe.checkpoints.filenames import CONFIG
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.checkpoints.plainfolder import of_text
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.sources import Source
from ltpipe.streaming.skeleton import skeleton_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_FACTS = "ltpipe.planning.architectures"


def known_architectures() -> list[str]:
    """Return the Hub repositories whose shapes come with ltpipe, so that planning them needs no network."""
    names = (entry.name for entry in files(_FACTS).iterdir())
    return sorted(name.removesuffix(".json").replace("--", "/") for name in names if name.endswith(".json"))


def architecture(source: Source) -> "PretrainedConfig":
    """Return a model's configuration from its folder or GGUF header, from ltpipe, the Hub's local cache or the Hub.

    Raises:
        UserError: the source is none of these, the Hub cannot be reached, or the model also reads images or sound and
            transformers has no class for its language model alone.
    """
    from transformers import AutoConfig

    if source.is_hub and (name := source.repository[0]) in known_architectures():
        return _from_facts(name)
    place = source.local([CONFIG], "model")
    where = {"gguf_file": place.name} if place.is_file() else {}
    try:
        config = AutoConfig.from_pretrained(
            place.parent if where else place, local_files_only=True, trust_remote_code=False, **where
        )
    except Exception as error:  # transformers raises all kinds of errors for invalid configurations
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"{source.key}: cannot find the shapes of '{source.text}' ({reason}); use a folder with {CONFIG}, a "
            ".gguf file or a repository of the Hub"
        ) from None
    return of_text(config, source.text, source.key)


def foreseen(config: "PretrainedConfig", dtype: torch.dtype) -> tuple[nn.Module, Manifest]:
    """Return a model's skeleton, whose parameters have no storage, and the manifest that its checkpoint will have.

    Args:
        config: configuration of the model.
        dtype: dtype in which the checkpoint will be stored.
    """
    skeleton = skeleton_of(config, dtype)
    return skeleton, manifest_of(skeleton, "foreseen")


def _from_facts(name: str) -> "PretrainedConfig":
    from transformers import AutoConfig

    text = files(_FACTS).joinpath(f"{name.replace('/', '--')}.json").read_text(encoding="utf-8")
    facts: dict[str, Any] = json.loads(text)
    return AutoConfig.for_model(facts.pop("model_type"), **facts)
