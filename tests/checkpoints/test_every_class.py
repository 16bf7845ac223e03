"""Every causal class of the installed transformers: what is pruned of its blocks, and what is left out."""

import pytest
import torch
from architectures import SMALL, small_model
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from ltpipe.checkpoints.contents import manifest_of
from ltpipe.checkpoints.prunable import Selection
from ltpipe.checkpoints.uses import UNKNOWN

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

_EXPERTS = {
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
_LATENT = {  # attention that makes heads of its own sizes
    "num_key_value_heads": 4,
    "head_dim": 8,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
}
OTHERWISE = {
    **dict.fromkeys(
        (
            "axk1", "axk2", "deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite", "glm_moe_dsa",
            "longcat_flash", "minicpm3", "youtu",
        ),
        _LATENT,
    ),
    "codegen": {"rotary_dim": 8},
    "gptj": {"rotary_dim": 8},
    "gpt_neo": {"num_layers": 2, "attention_types": [[["global", "local"], 1]]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"hidden_size": 64, "expand": 2, "num_heads": 8, "head_dim": 16},
}  # fmt: skip
ELSEWHERE = (
    "blenderbot", "blt", "cohere_compass_text", "dots1", "dots3_note", "dots3_note_text", "emu3", "falcon", "gemma3",
    "gemma3n", "gemma4", "gemma4_assistant", "gemma4_text", "gemma4_unified", "gemma4_unified_assistant", "git",
    "got_ocr2", "llama4", "mllama", "moss_transcribe_diarize", "musicgen", "musicgen_melody", "phi4_multimodal",
    "plbart", "prophetnet", "qwen3_5", "qwen3_5_moe", "qwen4_exp", "reformer", "whisper", "xlnet", "xmod", "zamba",
    "zaya",
)  # fmt: skip
"""Classes that these few numbers do not make small; docs/architectures.md has them."""


@pytest.mark.parametrize("architecture", sorted({*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES} - {*ELSEWHERE}))
def test_blocks_are_pruned_or_said_to_be_left_out(architecture, caplog):
    special = SMALL.get(architecture)
    model = (
        small_model(architecture)
        if special
        else small_model(architecture, **_EXPERTS | OTHERWISE.get(architecture, {}))
    )
    manifest = manifest_of(model, "made")
    assert "could not trace" not in caplog.text
    chosen = set(Selection().names(manifest))
    for name, entry in manifest.tensors.items():
        if manifest.block_of(name) and len(entry.shape) > 1 and not entry.buffer:
            assert (name in chosen) != bool(entry.left_out), name
            assert entry.left_out != UNKNOWN.otherwise, name
    for name, module in model.named_modules():
        for leaf, parameter in module.named_parameters(recurse=False):
            stored = manifest.tied.get(f"{name}.{leaf}", f"{name}.{leaf}")
            is_linear = isinstance(module, torch.nn.Linear) and parameter.dim() == 2 and manifest.block_of(stored)
            if is_linear and stored not in chosen:
                assert manifest.tensors[stored].left_out == "not used by the forward pass", stored
