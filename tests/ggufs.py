"""Tiny models as GGUF files, as llama.cpp's converter would write them."""

from collections.abc import Callable, Mapping
from pathlib import Path

import gguf
import numpy as np
import torch
from tiny import ARCHITECTURES, VOCABULARY, tiny_model

Q8_0 = gguf.GGMLQuantizationType.Q8_0
Settings = Callable[[gguf.GGUFWriter], object]


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp's order of the rows of queries and keys: the two halves of every head in turn."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def quantisable(weight: np.ndarray) -> bool:
    return weight.ndim == 2 and weight.shape[1] % 32 == 0


def as_llama(name: str, weight: np.ndarray) -> np.ndarray:
    configuration = ARCHITECTURES["llama"][1]
    if name.endswith("attn_q.weight"):
        return interleaved(weight, configuration["num_attention_heads"])
    if name.endswith("attn_k.weight"):
        return interleaved(weight, configuration["num_key_value_heads"])
    return weight


def write_gguf(
    path: Path,
    *,
    quantised: bool = False,
    without: str = "",
    settings: Settings | None = None,
    tensors: Mapping[str, np.ndarray] | None = None,
    splits: str = "default",
) -> Path:
    """The tiny Llama model.

    Args:
        path: to write to.
        quantised: what can be, to eight bits.
        without: live name of a module whose weight is left out.
        settings: further keys, added to the writer.
        tensors: further tensors.
        splits: name of the way in which text is split into words.
    """
    kind = Q8_0 if quantised else None
    return write_model(path, tiny_model("llama"), "llama", as_llama, without, settings, tensors, kind, splits)


def write_model(
    path: Path,
    model: torch.nn.Module,
    architecture: str,
    change: Callable[[str, np.ndarray], np.ndarray] | None = None,
    without: str = "",
    settings: Settings | None = None,
    tensors: Mapping[str, np.ndarray] | None = None,
    kind: gguf.GGMLQuantizationType | None = None,
    splits: str = "default",
) -> Path:
    """Any tiny model with grouped heads, with a byte-level tokenizer of one merge."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    config = model.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(VOCABULARY)
    letters = sorted(bytes_to_unicode().values())[: VOCABULARY - 3]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(splits)
    writer.add_token_list(["<s>", "</s>", *letters, "ab"])
    writer.add_token_types([3, 3] + [1] * (VOCABULARY - 2))  # 3: control
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    if settings:
        settings(writer)
    kinds = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(kinds[architecture], config.num_hidden_layers)
    for ours, weight in model.named_parameters():
        module, _, suffix = ours.rpartition(".")
        if module == without:
            continue
        theirs = f"{names.get_name(module)}.{suffix}"
        values = weight.detach().numpy()
        values = np.ascontiguousarray(change(theirs, values) if change else values)
        if kind and quantisable(values):
            writer.add_tensor(theirs, gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(theirs, values)
    for name, values in (tensors or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
