"""Tiny checkpoints for structured pruning, and masks of them.

Three key/value heads with two query heads each, so that one third of the heads can go.
"""

from pathlib import Path

import numpy as np
import torch
from tiny import VOCABULARY, random_model, tiny_tokenizer

_COMMON = {
    "vocab_size": VOCABULARY,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
    "hidden_size": 48,
    "intermediate_size": 40,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "max_position_embeddings": 64,
}
MODELS = {
    "llama": ("LlamaConfig", {}),
    "llama-biases": ("LlamaConfig", {"attention_bias": True, "mlp_bias": True}),
    "llama-odd": ("LlamaConfig", {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 4}),
    "mistral": ("MistralConfig", {"sliding_window": 8}),
    "qwen2": (
        "Qwen2Config",
        {"tie_word_embeddings": True, "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2},
    ),
    "qwen3": ("Qwen3Config", {"head_dim": 16}),
    "gemma": ("GemmaConfig", {"head_dim": 16}),
    "gemma2": ("Gemma2Config", {"head_dim": 16, "sliding_window": 8}),
    "gemma3": ("Gemma3TextConfig", {"head_dim": 16, "sliding_window": 8}),
    "opt": ("OPTConfig", {"ffn_dim": 40, "word_embed_proj_dim": 48}),
}


def save(name: str, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Save a tiny model and its tokenizer with save_pretrained; biases and norms are random too."""
    import transformers

    config_class, settings = MODELS[name]
    settings = {key: value for key, value in (_COMMON | settings).items() if name != "opt" or "key_value" not in key}
    model = random_model(getattr(transformers, config_class)(**settings), sorted(MODELS).index(name))
    model.to(dtype).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def make(folder: Path, scope: str, sparsity: str, output: Path, criterion: str = "magnitude", **selection) -> Path:
    """The histogram and mask stages."""
    from ltpipe.checkpoints.canonical import Checkpoint
    from ltpipe.checkpoints.prunable import Selection
    from ltpipe.pruning.build import make_mask
    from ltpipe.pruning.histogram import make_histogram

    seed = 3 if criterion == "random" else None
    make_histogram(Checkpoint.open(folder), criterion, seed, Selection(**selection)).write(
        output.with_suffix(".histogram")
    )
    made = make_mask(Checkpoint.open(folder), output.with_suffix(".histogram"), scope, sparsity, output)
    assert made.kept == sum(int(kept.sum()) for kept in masks(output).values())
    return output


def masks(path: Path) -> dict[str, np.ndarray]:
    from ltpipe.pruning.masks import load_mask

    return {name: kept.numpy() for name, kept in load_mask(path).items()}


def units_by_hand(tensors: dict[str, np.ndarray], scope: str, name: str) -> list[list[dict[str, tuple]]]:
    """For each block and unit, which slice of which tensor it takes: written out anew, tensor by tensor."""
    size = 16 if name in ("qwen3", "gemma", "gemma2", "gemma3", "llama-odd") else 8
    llama = name != "opt"
    blocks = "model.layers" if llama else "model.decoder.layers"

    def of(block: int, unit: int) -> dict[str, tuple]:
        prefix = f"{blocks}.{block}."
        if scope == "blocks":
            return {tensor: (slice(None),) for tensor in tensors if tensor.startswith(prefix)}
        if scope == "channels":
            into = ("mlp.gate_proj", "mlp.up_proj") if llama else ("fc1",)
            out = "mlp.down_proj" if llama else "fc2"
            rows = {f"{prefix}{tensor}.weight": (unit,) for tensor in into}
            return rows | {f"{prefix}{out}.weight": (slice(None), unit)}
        group = 1 if name in ("opt", "llama-odd") else 2
        one, many = slice(unit * size, (unit + 1) * size), slice(unit * size * group, (unit + 1) * size * group)
        out = "o_proj" if llama else "out_proj"
        return {
            f"{prefix}self_attn.q_proj.weight": (many,),
            f"{prefix}self_attn.k_proj.weight": (one,),
            f"{prefix}self_attn.v_proj.weight": (one,),
            f"{prefix}self_attn.{out}.weight": (slice(None), many),
        }

    count = {"blocks": 1, "channels": 40, "heads": {"opt": 6, "llama-odd": 4}.get(name, 3)}[scope]
    return [[of(block, unit) for unit in range(count)] for block in range(4)]
