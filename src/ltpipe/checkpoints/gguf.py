"""Checks a GGUF file against the model that transformers built from it.

transformers takes the keys and tensors that it knows and silently drops all others: biases, factors of rotary
positions, sliding windows. A model without them runs, but computes something else.
"""

import logging
import math
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ltpipe.checkpoints.contents import stored_tensors
from ltpipe.runtime.errors import UserError, few

if TYPE_CHECKING:
    from gguf.gguf_reader import ReaderTensor
    from transformers import PreTrainedConfig, PreTrainedModel

logger = logging.getLogger(__name__)

_INSTEAD = "use the model's safetensors as its source instead"
_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")

_OF_SHAPES = {
    "vocab_size",
    "embedding_length",
    "block_count",
    "feed_forward_length",
    "leading_dense_block_count",
    "full_attention_interval",
    "expert_count",
    "expert_shared_count",
    "expert_feed_forward_length",
    "expert_shared_feed_forward_length",
    "attention.q_lora_rank",
    "attention.kv_lora_rank",
    "ssm.conv_kernel",
    "ssm.inner_size",
    "ssm.state_size",
    "ssm.time_step_rank",
    "ssm.group_count",
    "shortconv.l_cache",
}
"""Keys that the tensors' shapes already imply: they do not fit a model built differently."""

_OF_NO_EFFECT = {
    "context_length",  # the length the model was trained on
    "nextn_predict_layers",  # for a head that predicts further tokens
    "pooling_type",  # for embeddings
    "tensor_data_layout",  # a note by old converters
    "rope.dimension_sections",  # for images; text has one position in every section
    "rope.scaling.finetuned",  # a note
}
"""Keys that do not affect a text's logits."""

_ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "attention.head_count": ("num_attention_heads",),
    "attention.head_count_kv": ("num_key_value_heads", "num_kv_heads", "num_attention_heads"),
    "attention.layer_norm_epsilon": ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps"),
    "attention.layer_norm_rms_epsilon": (
        "rms_norm_eps",
        "norm_eps",
        "layer_norm_eps",
        "layer_norm_epsilon",
        "norm_epsilon",
    ),
    "attention.sliding_window": ("sliding_window",),
    "attention.clamp_kqv": ("clip_qkv",),
    "attn_logit_softcapping": ("attn_logit_softcapping",),
    "final_logit_softcapping": ("final_logit_softcapping",),
    "router_logit_softcapping": ("router_logit_softcapping",),
    "embedding_scale": ("embedding_multiplier",),
    "residual_scale": ("residual_multiplier",),
    "logit_scale": ("logit_scale",),
    "use_parallel_residual": ("use_parallel_residual", "parallel_attn"),
    "expert_used_count": ("num_experts_per_tok",),
    "expert_weights_norm": ("norm_topk_prob",),
    "expert_weights_scale": ("routed_scaling_factor",),
    "decoder_start_token_id": ("decoder_start_token_id",),
}
"""The transformers attributes for a key; the first one that the configuration has counts."""

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "attention.causal": (True,),
    "attention.head_count": (0,),  # for models without attention
    "attention.head_count_kv": (0,),
    "attention.sliding_window": (0,),
    "attention.clamp_kqv": (0.0,),
    "attention.max_alibi_bias": (0.0,),
    "attn_logit_softcapping": (0.0,),
    "final_logit_softcapping": (0.0,),
    "router_logit_softcapping": (0.0,),
    "embedding_scale": (1.0,),
    "residual_scale": (1.0,),
    "logit_scale": (1.0,),
    "expert_weights_scale": (1.0, 0.0),
    "expert_used_count": (0,),
    "ssm.dt_b_c_rms": (False,),
    "swin_norm": (False,),
}
"""Values under which a model without the key computes the same."""

_SCALING = {
    "factor": "factor",
    "original_context_length": "original_max_position_embeddings",
    "attn_factor": "attention_factor",
    "yarn_attn_factor": "attention_factor",
    "yarn_beta_fast": "beta_fast",
    "yarn_beta_slow": "beta_slow",
}
"""The transformers names of the `rope.scaling` keys."""

_GATES = {1: "softmax", 2: "sigmoid"}
_ROTARY = re.compile(r"rope_(freqs|factors_long|factors_short)\.weight")
_SPLITS_AS_GPT2 = {"default", "gpt-2", "smollm"}  # smollm: single digits, which its merges imply anyway
_HEAD = "output.weight"
_IN_BLOCK = re.compile(r"blk\.(\d+)\.")


def check_whole(path: Path, key: str) -> None:
    """Reject one part of a split file, since transformers would not read the others.

    Raises:
        UserError: the file is one of several parts. `key` is the configuration key of the source.
    """
    part = _PART.fullmatch(path.name)
    if part and int(part[3]) > 1:
        first = f"{part[1]}-00001-of-{part[3]}.gguf"
        raise UserError(
            f"{key}: '{path}' is one of {int(part[3])} parts; merge them with "
            f"`llama-gguf-split --merge {first} {part[1]}.gguf`, and name the merged file"
        )


def check_arrived(path: Path, model: "PreTrainedModel", key: str) -> None:
    """Compare a model with the GGUF file it was read from: every tensor, every hyperparameter.

    Dropped tensors that do not affect the logits are logged as a warning.

    Args:
        path: the file.
        model: the model that transformers built from it, without missing or mismatched weights.
        key: configuration key of the source, for error messages.

    Raises:
        UserError: something that affects the logits is missing from the model.
    """
    from gguf import GGUFReader

    file = GGUFReader(path)
    architecture = file.fields["general.architecture"].contents()
    prefix = f"{architecture}."
    said = {
        name.removeprefix(prefix): field.contents() for name, field in file.fields.items() if name.startswith(prefix)
    }
    _check_settings(said, model.config.get_text_config(), f"{key}: '{path}'", prefix)
    _check_tensors({tensor.name: tensor for tensor in file.tensors}, model, architecture, key, path)
    split = file.fields["tokenizer.ggml.pre"].contents() if "tokenizer.ggml.pre" in file.fields else "default"
    if split not in _known_splits():
        logger.warning(
            "%s: transformers does not know how '%s' splits words (tokenizer.ggml.pre is %s) and splits as GPT-2 does; "
            "set the key tokenizer to the model's own tokenizer",
            key,
            path,
            split,
        )


def _check_tensors(
    tensors: Mapping[str, "ReaderTensor"], model: "PreTrainedModel", architecture: str, key: str, path: Path
) -> None:
    """Check that every tensor is in the model or affects nothing, and that the number of elements matches."""
    dropped = _dropped(tensors, model, architecture)
    blocks = model.config.get_text_config().num_hidden_layers
    further = {name for name in dropped if (block := _IN_BLOCK.match(name)) and int(block[1]) >= blocks}
    if changing := [name for name in dropped if name not in further and not _changes_nothing(tensors, name)]:
        more = f" and {len(changing) - 1} more" if len(changing) > 1 else ""
        raise UserError(
            f"{key}: transformers drops tensor {changing[0]}{more} of '{path}', which changes what the model computes; "
            f"{_INSTEAD}"
        )
    if dropped:
        logger.warning(
            "%s: %d tensors of '%s' do not affect the logits and are left out: %s",
            key,
            len(dropped),
            path,
            few(dropped),
        )
    arrived = sum(int(tensor.n_elements) for name, tensor in tensors.items() if name not in dropped)
    held = sum(tensor.numel() for tensor in stored_tensors(model).values())
    if arrived != held:
        raise UserError(
            f"{key}: '{path}' has {arrived:,} weights for {type(model).__name__}, which has {held:,}; {_INSTEAD}"
        )


def _dropped(names: Collection[str], model: "PreTrainedModel", architecture: str) -> list[str]:
    """Return names of tensors that transformers assigns to no parameter, and of a head that it ties instead."""
    from transformers.integrations.gguf.utils import get_gguf_conversion_mapping, is_gguf_arch_supported
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

    if is_gguf_arch_supported(architecture):
        live = model.state_dict().keys()
        ours = _renamed(get_gguf_conversion_mapping(architecture, model.config), names)
        dropped = [name for name in names if ours[name] not in live]
    else:
        processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config=model.config.to_dict())
        taken = get_gguf_hf_weights_map(model, processor)
        dropped = [name for name in names if name not in taken]
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    return [*dropped, *({_HEAD} & (set(names) - set(dropped)) if tied else ())]


def _renamed(mapping: list, names: Iterable[str]) -> dict[str, str]:
    """Return the names that transformers' newer reader gives to a file's tensors."""
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    return {name: rename_source_key(name, renamings, converters)[0] for name in names}


def _changes_nothing(tensors: Mapping[str, "ReaderTensor"], name: str) -> bool:
    """Return whether a model computes the same without a tensor: a zero bias, factors of one, or a tied head."""
    if name.endswith(".bias"):
        return not _values(tensors[name]).any()
    if _ROTARY.fullmatch(name):
        return bool((_values(tensors[name]) == 1).all())
    return name == _HEAD and np.array_equal(_values(tensors[name]), _values(tensors["token_embd.weight"]))


def _values(tensor: "ReaderTensor") -> np.ndarray:
    from gguf import dequantize

    return dequantize(tensor.data, tensor.tensor_type)


def _known_splits() -> set[str]:
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    return _SPLITS_AS_GPT2 | GGUF_PRE_TOKENIZER_SPLITS.keys()


def _check_settings(said: Mapping[str, Any], config: "PreTrainedConfig", where: str, prefix: str) -> None:
    """Check that every hyperparameter in the file equals the model's."""
    for name, value in said.items():
        if not _agrees(name, value, said, config):
            raise UserError(
                f"{where} sets {prefix}{name} = {value}, which is missing from the {config.model_type} model that "
                f"transformers builds; {_INSTEAD}"
            )
    window = getattr(config, "sliding_window", None)
    everywhere = not getattr(config, "layer_types", None) and getattr(config, "use_sliding_window", True)
    if window and everywhere and "attention.sliding_window" not in said and window < said.get("context_length", 0):
        raise UserError(
            f"{where} sets no sliding window, but transformers uses one of {window} for {config.model_type}; {_INSTEAD}"
        )


def _agrees(name: str, value: Any, said: Mapping[str, Any], config: "PreTrainedConfig") -> bool:
    """Return whether a model with this configuration computes what a key says."""
    if name in _OF_SHAPES | _OF_NO_EFFECT or any(_same(value, neutral) for neutral in _NEUTRAL.get(name, ())):
        return True
    if name.startswith("rope.scaling."):
        return _same_scaling(said, config)
    if name == "attention.sliding_window" and value >= said.get("context_length", math.inf):
        return True
    match name:
        case "rope.freq_base" | "rope.freq_base_swa":
            return any(_same(value, each.get("rope_theta")) for each in _rotary(config))
        case "rope.dimension_count" | "rope.dimension_count_swa":
            shares = {found.get("partial_rotary_factor", 1.0) for found in _rotary(config)}
            return any(int(size * share) == value for size in _head_sizes(config) for share in shares)
        case (
            "attention.key_length"
            | "attention.key_length_swa"
            | "attention.value_length"
            | "attention.value_length_swa"
        ):
            return value in _head_sizes(config)
        case "attention.sliding_window_pattern":
            sliding = [kind == "sliding_attention" for kind in getattr(config, "layer_types", None) or ()]
            every = value if isinstance(value, list) else [number % value for number in range(1, len(sliding) + 1)]
            return sliding == [bool(each) for each in every]
        case "attention.scale":
            own, scalar = (getattr(config, key, None) for key in ("attention_multiplier", "query_pre_attn_scalar"))
            scales = [own] if own else [size**-0.5 for size in ([scalar] if scalar else _head_sizes(config))]
            return any(_same(value, scale) for scale in scales)
        case "attention.max_alibi_bias":
            return value == 8 and (config.model_type == "bloom" or getattr(config, "alibi", False))
        case "expert_gating_func":
            return getattr(config, "scoring_func", "softmax") == _GATES.get(value)
    found = [getattr(config, attribute) for attribute in _ATTRIBUTES.get(name, ()) if hasattr(config, attribute)]
    several = max(value) if isinstance(value, list) else value  # one per block; the others are 0
    return bool(found) and _same(several, found[0])


def _same(one: Any, other: Any) -> bool:
    numbers = all(isinstance(each, int | float) for each in (one, other))
    return math.isclose(one, other, rel_tol=1e-6) if numbers else one == other


def _rotary(config: "PreTrainedConfig") -> list[dict[str, Any]]:
    """Return the rotary position parameters of every kind of layer."""
    parameters = getattr(config, "rope_parameters", None) or {}
    nested = [each for each in parameters.values() if isinstance(each, dict)]
    return nested or [parameters]


def _same_scaling(said: Mapping[str, Any], config: "PreTrainedConfig") -> bool:
    kind = said.get("rope.scaling.type", "linear")
    if kind == "none" or (kind == "linear" and said.get("rope.scaling.factor", 1.0) in (0.0, 1.0)):
        return True
    asked = {ours: said[f"rope.scaling.{name}"] for name, ours in _SCALING.items() if f"rope.scaling.{name}" in said}
    return any(
        found.get("rope_type") == kind and all(_same(value, found.get(name)) for name, value in asked.items())
        for found in _rotary(config)
    )


def _head_sizes(config: "PreTrainedConfig") -> set[int]:
    own = (getattr(config, name, None) for name in ("head_dim", "global_head_dim", "v_head_dim", "qk_rope_head_dim"))
    return {size for size in own if size} or {config.hidden_size // config.num_attention_heads}
