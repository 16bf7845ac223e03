"""Tiny random models of many architectures, saved as a user would have them on disk."""

from pathlib import Path

import pytest
import torch

VOCABULARY = 96

_SMALL = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
_LLAMA = {
    **_SMALL,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
ARCHITECTURES = {
    "llama": ("LlamaConfig", _LLAMA),
    "qwen2": ("Qwen2Config", {**_LLAMA, "tie_word_embeddings": True}),
    "gpt2": ("GPT2Config", {**_SMALL, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}),
    "opt": (
        "OPTConfig",
        {
            **_SMALL,
            "hidden_size": 32,
            "word_embed_proj_dim": 16,
            "ffn_dim": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "max_position_embeddings": 64,
        },
    ),
    "gpt-neox": (
        "GPTNeoXConfig",
        {
            **_SMALL,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "max_position_embeddings": 64,
        },
    ),
    "gemma": ("GemmaConfig", {**_LLAMA, "head_dim": 8}),
    "mixtral": ("MixtralConfig", {**_LLAMA, "num_local_experts": 4, "num_experts_per_tok": 2}),
    # Beyond the required seven: arguments of batch x heads, soft-capped logits, sliding windows.
    "bloom": ("BloomConfig", {**_SMALL, "hidden_size": 32, "n_layer": 3, "n_head": 4}),
    "gemma2": ("Gemma2Config", {**_LLAMA, "head_dim": 8, "final_logit_softcapping": 2.0, "sliding_window": 8}),
}


def tiny_tokenizer():
    """A word-level tokenizer of w0, w1, … over the tiny models' vocabulary."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<bos>", "<eos>", "<unk>", *(f"w{number}" for number in range(VOCABULARY - 3))]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<eos>", unk_token="<unk>")


def tiny_model(architecture: str, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """A random model whose weights are large enough that every part of it matters to the loss."""
    import transformers

    config_class, settings = ARCHITECTURES[architecture]
    seed = sorted(ARCHITECTURES).index(architecture)
    return random_model(getattr(transformers, config_class)(**settings), seed).to(dtype)


def random_model(config, seed: int) -> torch.nn.Module:
    """A random float32 model of a configuration, as in `tiny_model`."""
    import transformers

    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.2 if parameter.dim() > 1 else 1.0))
    model.tie_weights()
    return model.eval()


def save_tiny(architecture: str, folder: Path, shard: str = "5GB", dtype: torch.dtype = torch.float32) -> Path:
    """Save a tiny model and its tokenizer with save_pretrained."""
    tiny_model(architecture, dtype).save_pretrained(folder, max_shard_size=shard)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def stands_in(parameter: torch.Tensor) -> bool:
    """Whether a parameter is a stand-in: NaN that takes no memory."""
    return parameter.untyped_storage().nbytes() <= parameter.itemsize and bool(parameter.isnan().all())


def some_quick(quick: tuple[str, ...]) -> list:
    """All architectures as parameters, those that are not named here in the slow suite."""
    return [pytest.param(name, marks=() if name in quick else pytest.mark.slow, id=name) for name in ARCHITECTURES]
