"""A folder as Hugging Face tools write it, looked at before transformers reads it."""

from pathlib import Path

import torch

from ltpipe.checkpoints.layout import CONFIG, WEIGHTS
from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.jsonfiles import read_json

_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")


def check_folder(folder: Path, key: str) -> None:
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
        raise UserError(unloadable(folder, error, key)) from None
    if (described := sum(parameter.numel() for parameter in model.parameters())) > 2 * sum(sizes):
        raise UserError(
            f"{key}: '{folder}' holds {sum(sizes):,} weights, its {CONFIG} describes a model of {described:,}; "
            "it is incomplete or does not fit its configuration"
        )


def unloadable(place: Path, error: Exception, key: str) -> str:
    """What is said where transformers raises; `key` is the configuration key of the source."""
    reason = str(error).strip().split("\n")[0]
    return f"{key}: transformers cannot load '{place}' as a causal language model: {reason}"
