"""GGUF files: what transformers makes of them is what they say, or it is refused by name."""

import json
import logging
from pathlib import Path

import gguf
import numpy as np
import pytest
import safetensors.torch
import torch
from ggufs import Q8_0, quantisable, write_gguf, write_model
from loading import KEY, bits, read, refused
from tiny import VOCABULARY, tiny_model
from tokenizers import Tokenizer
from transformers import MambaConfig

from ltpipe.checkpoints.filenames import CONFIG, MANIFEST, TOKENIZER, TOKENIZER_CONFIG, WEIGHTS
from ltpipe.checkpoints.gguf import _check_settings
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.runtime.errors import UserError


def test_gguf_is_the_same_checkpoint_as_the_folder(canonical_folder, tmp_path):
    manifest = read(write_gguf(tmp_path / "tiny.gguf"), tmp_path / "canonical")
    assert manifest.fingerprint == Manifest.read(canonical_folder("llama") / MANIFEST).fingerprint
    assert manifest.source == str(tmp_path / "tiny.gguf")
    tokenizer = Tokenizer.from_file(str(tmp_path / "canonical" / TOKENIZER))
    assert tokenizer.encode("ab", add_special_tokens=False).ids == [VOCABULARY - 1]
    assert tokenizer.token_to_id("</s>") == 1
    assert json.loads((tmp_path / "canonical" / TOKENIZER_CONFIG).read_text())["eos_token"] == "</s>"
    assert json.loads((tmp_path / "canonical" / CONFIG).read_text())["rms_norm_eps"] == pytest.approx(1e-6)


@pytest.mark.parametrize(("asked", "stored"), [("auto", torch.float32), ("bfloat16", torch.bfloat16)])
def test_quantised_gguf_is_dequantised(asked, stored, tmp_path):
    """To float32 exactly as the gguf library does it, unless another dtype is asked for."""
    read(write_gguf(tmp_path / "tiny.gguf", quantised=True), tmp_path / "canonical", asked)
    live = tiny_model("llama").state_dict()
    for name, tensor in safetensors.torch.load_file(tmp_path / "canonical" / WEIGHTS).items():
        weight = live[name].numpy()
        if quantisable(weight):  # blocks lie along rows, so that the order of the rows does not matter
            weight = gguf.quants.dequantize(gguf.quants.quantize(weight, Q8_0), Q8_0)
            assert not np.array_equal(weight, live[name].numpy())
        assert torch.equal(bits(tensor), bits(torch.from_numpy(weight).to(stored))), name
    assert "quantization_config" not in json.loads((tmp_path / "canonical" / CONFIG).read_text())


def test_gguf_without_output_is_tied(tmp_path):
    manifest = read(write_gguf(tmp_path / "tiny.gguf", without="lm_head"), tmp_path / "canonical")
    assert manifest.tied == {"lm_head.weight": "model.embed_tokens.weight"}


def test_damaged_gguf(tmp_path):
    path = write_gguf(tmp_path / "tiny.gguf", without="model.layers.1.mlp.up_proj")
    refused(path, tmp_path / "canonical", KEY, "missing keys model.layers.1.mlp.up_proj.weight;")
    whole = write_gguf(path).read_bytes()
    for kept in (0, 4, 100, 2000, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:kept])
        refused(path, tmp_path / "canonical", KEY, str(path))
    path.write_bytes(b"\x89PNG" + whole[4:])
    refused(path, tmp_path / "canonical", KEY, str(path))


# --- what transformers drops without a word

ROTARY = np.linspace(1, 8, 4, dtype=np.float32)  # half of a head's eight

# What changes the logits: what is added to the file, and what the message has to name.
CHANGING = {
    "rotary-factors": ({}, {"rope_freqs.weight": ROTARY}, "rope_freqs.weight"),
    "long-factors": ({}, {"rope_factors_long.weight": ROTARY}, "rope_factors_long.weight"),
    "bias-of-queries": (
        {},
        {f"blk.{n}.attn_q.bias": np.ones(32, np.float32) for n in range(3)},
        "attn_q.bias and 2 more",
    ),
    "bias-of-outputs": ({}, {"blk.2.attn_output.bias": np.ones(32, np.float32)}, "blk.2.attn_output.bias"),
    "bias-of-an-mlp": ({}, {"blk.1.ffn_down.bias": np.ones(32, np.float32)}, "blk.1.ffn_down.bias"),
    "norm-of-queries": ({}, {"blk.0.attn_q_norm.weight": np.ones(8, np.float32)}, "blk.0.attn_q_norm.weight"),
    "scale-of-a-weight": ({}, {"blk.0.ffn_up.scale": np.ones(1, np.float32)}, "blk.0.ffn_up.scale"),
    "tensor-of-no-name": ({}, {"stranger": np.ones((4, 4), np.float32)}, "stranger"),
    "linear-scaling": ({"rope.scaling.type": "linear", "rope.scaling.factor": 2.0}, {}, "llama.rope.scaling.type"),
    "yarn": (
        {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 16},
        {},
        "llama.rope.scaling.type = yarn",
    ),
    "factor-alone": ({"rope.scaling.factor": 2.0}, {}, "llama.rope.scaling.factor = 2.0"),
    "sliding-window": ({"attention.sliding_window": 16}, {}, "llama.attention.sliding_window = 16"),
    "soft-cap": ({"final_logit_softcapping": 30.0}, {}, "llama.final_logit_softcapping = 30.0"),
    "scale-of-logits": ({"logit_scale": 0.0625}, {}, "llama.logit_scale = 0.0625"),
    "scale-of-attention": ({"attention.scale": 0.015625}, {}, "llama.attention.scale"),
    "scale-of-embeddings": ({"embedding_scale": 12.0}, {}, "llama.embedding_scale = 12.0"),
    "clamp": ({"attention.clamp_kqv": 8.0}, {}, "llama.attention.clamp_kqv = 8.0"),
    "both-directions": ({"attention.causal": False}, {}, "llama.attention.causal = False"),
    "key-of-no-name": ({"zork": 7}, {}, "llama.zork = 7"),
}

# What changes none: what is added, and whether it is warned of.
HARMLESS = {
    "factors-of-one": ({}, {"rope_freqs.weight": np.ones(4, np.float32)}, "rope_freqs.weight"),
    "bias-of-zeros": ({}, {"blk.0.attn_q.bias": np.zeros(32, np.float32)}, "blk.0.attn_q.bias"),
    "block-that-predicts-further": ({}, {"blk.3.attn_norm.weight": np.ones(32, np.float32)}, "blk.3.attn_norm.weight"),
    "no-scaling": ({"rope.scaling.type": "none"}, {}, ""),
    "scaling-by-one": ({"rope.scaling.type": "linear", "rope.scaling.factor": 1.0}, {}, ""),
    "window-as-wide-as-the-context": ({"attention.sliding_window": 64}, {}, ""),
    "what-the-model-does-anyway": (
        {"attention.causal": True, "attention.key_length": 8, "rope.dimension_count": 8, "attention.scale": 8**-0.5},
        {},
        "",
    ),
}


def adding(settings: dict):
    def add(writer: gguf.GGUFWriter) -> None:
        for name, value in settings.items():
            kinds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
            kinds[type(value)](f"llama.{name}", value)

    return add


@pytest.mark.parametrize("case", CHANGING)
def test_what_changes_logits_is_refused_by_name(case, tmp_path):
    settings, tensors, word = CHANGING[case]
    path = write_gguf(tmp_path / "tiny.gguf", settings=adding(settings), tensors=tensors)
    refused(path, tmp_path / "canonical", KEY, str(path), word, "safetensors")


@pytest.mark.parametrize("case", HARMLESS)
def test_what_changes_none_is_warned_of(case, canonical_folder, tmp_path, caplog):
    settings, tensors, word = HARMLESS[case]
    path = write_gguf(tmp_path / "tiny.gguf", settings=adding(settings), tensors=tensors)
    with caplog.at_level(logging.WARNING, "ltpipe"):
        manifest = read(path, tmp_path / "canonical")
    assert manifest.fingerprint == Manifest.read(canonical_folder("llama") / MANIFEST).fingerprint
    assert [word in record.getMessage() for record in caplog.records] == [True] * bool(word)


GEMMA = {
    "gemma2.attention.key_length": 8,
    "gemma2.attention.value_length": 8,
    "gemma2.attention.sliding_window": 8,
    "gemma2.final_logit_softcapping": 30.0,
    "gemma2.attn_logit_softcapping": 50.0,
}


def gemma(path: Path, **settings: float) -> Path:
    """The tiny Gemma 2, whose norms llama.cpp stores with one added."""

    def add(writer: gguf.GGUFWriter) -> None:
        for name, value in (GEMMA | settings).items():
            (writer.add_uint32 if isinstance(value, int) else writer.add_float32)(name, value)

    model = tiny_model("gemma2")
    return write_model(path, model, "gemma2", lambda name, w: w + 1 if "norm" in name else w, settings=add)


@pytest.mark.parametrize(
    ("architecture", "write"),
    [("gemma2", gemma), ("qwen2", lambda path: write_model(path, tiny_model("qwen2"), "qwen2"))],
)
def test_what_transformers_reads_whole(architecture, write, tmp_path):
    """Biases of Qwen2 and the soft caps of Gemma 2 arrive, and are not refused."""
    read(write(tmp_path / "tiny.gguf"), tmp_path / "canonical")
    stored = safetensors.torch.load_file(tmp_path / "canonical" / WEIGHTS)
    for name, tensor in tiny_model(architecture).named_parameters():
        assert torch.allclose(stored[name], tensor, atol=1e-6), name


def test_a_soft_cap_that_transformers_does_not_read(tmp_path):
    """The key is the right one, but transformers takes its own default whatever the file says."""
    path = gemma(tmp_path / "tiny.gguf", **{"gemma2.final_logit_softcapping": 2.0})
    refused(path, tmp_path / "canonical", "gemma2.final_logit_softcapping = 2.0")


def test_a_model_without_attention_has_no_heads():
    """llama.cpp writes zeros for Mamba, whose configuration in transformers has no such attribute."""
    said = {"attention.head_count": 0, "attention.head_count_kv": 0, "feed_forward_length": 0, "ssm.conv_kernel": 4}
    config = MambaConfig(num_hidden_layers=2)
    _check_settings(said, config, "here", "mamba.")
    with pytest.raises(UserError, match=r"^here sets mamba\.attention\.head_count = 4"):
        _check_settings({"attention.head_count": 4}, config, "here", "mamba.")


def test_parts_are_to_be_merged(tmp_path):
    path = write_gguf(tmp_path / "tiny-00001-of-00003.gguf")
    refused(path, tmp_path / "canonical", KEY, "one of 3 parts", "llama-gguf-split --merge tiny-00001-of-00003.gguf")
    assert write_gguf(tmp_path / "tiny-00001-of-00001.gguf").is_file()
    read(tmp_path / "tiny-00001-of-00001.gguf", tmp_path / "whole")


def test_a_way_of_splitting_words_that_is_not_known(tmp_path, caplog):
    path = write_gguf(tmp_path / "tiny.gguf", splits="zork")
    read(path, tmp_path / "canonical")
    assert ["tokenizer.ggml.pre is zork" in record.getMessage() for record in caplog.records].count(True) == 1
