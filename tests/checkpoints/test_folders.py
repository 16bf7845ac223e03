"""Folders as people have them: what transformers can read is read, everything else says the way out."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
import transformers
from loading import KEY, edit, read, refused
from tiny import save_tiny, tiny_model, tiny_tokenizer
from transformers import AutoConfig

from ltpipe.checkpoints.filenames import CONFIG, MANIFEST, WEIGHTS
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.planning.architecture import architecture, foreseen
from ltpipe.runtime.sources import Source

INDEX = f"{WEIGHTS}.index.json"
UP = "model.layers.1.mlp.up_proj.weight"


def retensor(folder: Path, **tensors: torch.Tensor) -> None:
    held = safetensors.torch.load_file(folder / WEIGHTS)
    safetensors.torch.save_file(held | tensors, folder / WEIGHTS, {"format": "pt"})


def as_codes(folder: Path, kind: torch.dtype, *names: str) -> None:
    held = safetensors.torch.load_file(folder / WEIGHTS)
    retensor(folder, **{name: held[name].to(kind) for name in names or held})


def without(path: Path, key: str) -> None:
    content = json.loads(path.read_text())
    del content[key]
    path.write_text(json.dumps(content))


# What is done to a folder of one file or of shards, and what is said.
REFUSED: dict[str, tuple[str, Callable[[Path], object], tuple[str, ...]]] = {
    "adapter": (
        "5GB",
        lambda d: (d / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "x"}'),
        (KEY, "contains an adapter", "merge the adapter first", "merge_and_unload"),
    ),
    "compressed": (
        "5GB",
        lambda d: edit(d / CONFIG, compression_config={"format": "pack-quantized"}),
        (KEY, "quantised", "unquantised"),
    ),
    "text-quantised": (
        "5GB",
        lambda d: edit(d / CONFIG, text_config={"quantization_config": {"quant_method": "fp8"}}),
        (KEY, "quantised"),
    ),
    "index-without-metadata": ("10KB", lambda d: without(d / INDEX, "metadata"), (INDEX, '"metadata": {}')),
    "shards-without-index": ("10KB", lambda d: (d / INDEX).unlink(), ("model-00001-of-000", f"no {INDEX}", "fetch it")),
    "two-variants": (
        "5GB",
        lambda d: [
            (d / "model.bf16.safetensors").write_bytes((d / WEIGHTS).read_bytes()),
            (d / WEIGHTS).rename(d / "model.fp16.safetensors"),
        ],
        ("model.bf16.safetensors and model.fp16.safetensors", "keep only one"),
    ),
    "other-name": (
        "5GB",
        lambda d: (d / WEIGHTS).rename(d / "consolidated.safetensors"),
        ("no model.safetensors but consolidated.safetensors", "use model.safetensors"),
    ),
    "codes-for-weights": ("5GB", lambda d: as_codes(d, torch.int8, UP), (KEY, f"'{UP}'", "I8", "unquantised")),
    "float8-with-scales": (
        "5GB",
        lambda d: [as_codes(d, torch.float8_e4m3fn, UP), retensor(d, **{f"{UP}_scale_inv": torch.ones(1)})],
        (KEY, f"{UP}_scale_inv", "quantised"),
    ),
    "float8-alone": (
        "5GB",
        lambda d: [as_codes(d, torch.float8_e4m3fn), without(d / CONFIG, "dtype")],
        (KEY, "F8_E4M3", "dtype to bfloat16 or float32"),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_in_one_line(case, tmp_path):
    shard, damage, words = REFUSED[case]
    damage(save_tiny("llama", tmp_path / "source", shard=shard))
    refused(tmp_path / "source", tmp_path / "canonical", str(tmp_path / "source"), *words)


def test_a_sentencepiece_model_alone(tmp_path):
    """transformers says that tiktoken is missing; what helps is something else."""
    tiny_model("llama").save_pretrained(tmp_path / "source")
    (tmp_path / "source" / "tokenizer.model").write_bytes(b"\x0a\x0e\x0a\x05<unk>\x15\x00\x00\x00\x00\x18\x02")
    refused(tmp_path / "source", tmp_path / "canonical", KEY, "no tokenizer.json but tokenizer.model", "sentencepiece")


# What lies beside the model, and is not read.
BESIDE = {
    "int16": torch.ones(3, dtype=torch.int16),
    "int8": torch.ones(3, dtype=torch.int8),
    "uint8": torch.ones(3, dtype=torch.uint8),
    "uint32": torch.ones(3, dtype=torch.uint32),
    "bool": torch.ones(3, dtype=torch.bool),
    "float8_e4m3fn": torch.ones(3).to(torch.float8_e4m3fn),
    "float8_e5m2": torch.ones(3).to(torch.float8_e5m2),
    "complex64": torch.ones(3, dtype=torch.complex64),
}


def test_tensors_that_nobody_needs_stop_nothing(canonical_folder, tmp_path, caplog):
    save_tiny("llama", tmp_path / "source")
    retensor(tmp_path / "source", **{f"beside.{name}": tensor for name, tensor in BESIDE.items()})
    manifest = read(tmp_path / "source", tmp_path / "canonical")
    assert manifest.fingerprint == Manifest.read(canonical_folder("llama") / MANIFEST).fingerprint
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert f"{len(BESIDE)} tensors" in warning


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_float8_weights_become_what_is_asked_for(kind, dtype, tmp_path):
    save_tiny("llama", tmp_path / "source")
    as_codes(tmp_path / "source", kind)
    read(tmp_path / "source", tmp_path / "canonical", dtype)
    for name, tensor in safetensors.torch.load_file(tmp_path / "canonical" / WEIGHTS).items():
        wanted = tiny_model("llama").state_dict()[name].to(kind).to(getattr(torch, dtype))
        assert torch.equal(tensor, wanted), name


@pytest.mark.parametrize("shard", ["5GB", "10KB"])
def test_weights_of_one_variant(shard, canonical_folder, tmp_path):
    tiny_model("llama").save_pretrained(tmp_path / "source", variant="fp16", max_shard_size=shard)
    tiny_tokenizer().save_pretrained(tmp_path / "source")
    assert not list((tmp_path / "source").glob(WEIGHTS))
    manifest = read(tmp_path / "source", tmp_path / "canonical")
    assert manifest.fingerprint == Manifest.read(canonical_folder("llama") / MANIFEST).fingerprint


# --- text of larger models

TEXT = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 14,
}
PIXTRAL, CLIP, MROPE = "pixtral", "clip_vision_model", {"rope_type": "default", "mrope_section": [1, 1, 2]}
LARGER: dict[str, tuple[str, dict]] = {  # class of its text alone, and a configuration
    "mistral3": (
        "MistralForCausalLM",
        {"text_config": {"model_type": "mistral"}, "vision_config": {"model_type": PIXTRAL}},
    ),
    "gemma3": ("Gemma3ForCausalLM", {"mm_tokens_per_image": 4}),
    "smolvlm": ("LlamaForCausalLM", {"text_config": {"model_type": "llama"}}),
    "llava": ("LlamaForCausalLM", {"text_config": {"model_type": "llama"}, "vision_config": {"model_type": CLIP}}),
}


def larger(kind: str, **settings: object) -> torch.nn.Module:
    configuration = LARGER[kind][1] | settings
    text = configuration.pop("text_config", {}) | TEXT
    vision = configuration.pop("vision_config", {}) | VISION
    config = AutoConfig.for_model(kind, text_config=text, vision_config=vision, **configuration)
    torch.manual_seed(0)
    model = transformers.AutoModelForImageTextToText.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", LARGER)
def test_text_of_a_larger_model(kind, tied, token_ids, tmp_path):
    """The language model alone, every tensor of it, and its logits are those of the larger model on text."""
    model = larger(kind, tie_word_embeddings=tied)
    model.save_pretrained(tmp_path / "source")
    tiny_tokenizer().save_pretrained(tmp_path / "source")
    manifest = read(tmp_path / "source", tmp_path / "canonical")
    assert manifest.architecture == LARGER[kind][0]
    planned = foreseen(architecture(Source(str(tmp_path / "source"), KEY)), torch.float32)[1]
    assert planned.tensors.keys() == manifest.tensors.keys()
    assert not [name for name in manifest.tensors if "vision" in name]
    text = transformers.AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path / "canonical")).eval()
    stored = safetensors.torch.load_file(tmp_path / "canonical" / WEIGHTS)
    text.load_state_dict(stored | {alias: stored[name] for alias, name in manifest.tied.items()}, strict=True)
    with torch.inference_mode():
        assert torch.allclose(text(token_ids).logits, model(input_ids=token_ids).logits, atol=1e-5)


def test_text_of_a_larger_model_that_lacks_a_tensor(tmp_path):
    larger("llava").save_pretrained(tmp_path / "source")
    tiny_tokenizer().save_pretrained(tmp_path / "source")
    held = safetensors.torch.load_file(tmp_path / "source" / WEIGHTS)
    lost = next(name for name in held if "language_model" in name and "layers.1.mlp.up_proj" in name)
    safetensors.torch.save_file(
        {name: tensor for name, tensor in held.items() if name != lost}, tmp_path / "source" / WEIGHTS, {"format": "pt"}
    )
    refused(tmp_path / "source", tmp_path / "canonical", f"missing keys {UP}")


def test_a_larger_model_whose_text_has_no_class(tmp_path):
    text, vision = TEXT | {"rope_scaling": MROPE}, {"depth": 2, "num_heads": 4, "out_hidden_size": 32}
    config = AutoConfig.for_model("qwen3_vl", text_config=text, vision_config=VISION | vision)
    config.save_pretrained(tmp_path / "source")
    safetensors.torch.save_file({"x": torch.ones(2)}, tmp_path / "source" / WEIGHTS, {"format": "pt"})
    refused(
        tmp_path / "source", tmp_path / "canonical", KEY, "qwen3_vl", "no class for its language model", "qwen3_vl_text"
    )
