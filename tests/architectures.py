"""Small random models of architectures that do something of their own: experts, mixing vectors, several stacks."""

from pathlib import Path

import torch
from tiny import tiny_tokenizer

SIZE = {
    "vocab_size": 512,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 96,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
_TEXT = {key: value for key, value in SIZE.items() if not key.endswith("_token_id")}
SMALL = {
    "aria_text": {"moe_num_experts": 4, "moe_topk": 2, "moe_num_shared_experts": 1},
    "bart": {"d_model": 64, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 96},
    "dbrx": {
        "d_model": 64,
        "n_heads": 4,
        "n_layers": 2,
        "max_seq_len": 256,
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 10000.0},
        "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": 64},
    },
    "deepseek_v3": {
        "n_routed_experts": 8,
        "num_experts_per_tok": 2,
        "n_group": 2,
        "topk_group": 1,
        "moe_intermediate_size": 32,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 8,
        "v_head_dim": 16,
        "head_dim": 8,
        "first_k_dense_replace": 1,
    },
    "gemma3": {
        "text_config": _TEXT,
        "vision_config": {
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "image_size": 56,
            "patch_size": 14,
        },
    },
    "gemma3n_text": {
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "intermediate_size": [96] * 4,
        "hidden_size_per_layer_input": 16,
        "vocab_size_per_layer_input": 512,
    },
    "gemma4_text": {
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "vocab_size_per_layer_input": 512,
        "hidden_size_per_layer_input": 16,
        "global_head_dim": 16,
    },
    "gpt_oss": {"num_local_experts": 4},
    "granitemoe": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "hrm_text": {},
    "jetmoe": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "llama4_text": {"num_local_experts": 4, "intermediate_size_mlp": 64, "attention_chunk_size": 64},
    "mamba": {},
    "phimoe": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    "recurrent_gemma": {},
    "rwkv": {"attention_hidden_size": 64, "context_length": 256},
    "xlm": {"emb_dim": 64, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 64},
    "zamba2": {
        "num_hidden_layers": 6,
        "layers_block_type": ["mamba", "hybrid"] * 3,
        "hybrid_layer_ids": [1, 3, 5],
        "mamba_d_state": 16,
        "mamba_expand": 2,
        "mamba_ngroups": 1,
        "n_mamba_heads": 4,
        "mamba_headdim": 32,
        "num_mem_blocks": 1,
    },
}


def small_config(architecture: str, **settings):
    """The configuration of a small model, with other settings where they are given."""
    from transformers import AutoConfig

    base = {} if "text_config" in SMALL.get(architecture, {}) else SIZE
    return AutoConfig.for_model(architecture, **{**base, **SMALL.get(architecture, {}), **settings})


def small_model(architecture: str, **settings) -> torch.nn.Module:
    """A random float32 model whose matrices are large enough that each of them matters to the loss."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(small_config(architecture, **settings))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    model.tie_weights()
    return model.eval()


def save_small(architecture: str, folder: Path, **settings) -> Path:
    """Save a small model and a tokenizer with save_pretrained."""
    small_model(architecture, **settings).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
