"""What a forward pass says of parameters, against experiments with the live model, and what is left out of pruning."""

import logging

import numpy as np
import pytest
import torch
from architectures import SMALL, save_small, small_model
from orientation import check_orientation
from structured import make
from tiny import ARCHITECTURES, tiny_model
from torch import nn

from ltpipe.checkpoints.contents import blocks_name, manifest_of
from ltpipe.checkpoints.filenames import MANIFEST, WEIGHTS
from ltpipe.checkpoints.load import load_checkpoint
from ltpipe.checkpoints.prunable import Selection
from ltpipe.checkpoints.tensorfile import TensorFile
from ltpipe.checkpoints.uses import parameter_uses
from ltpipe.inspection.documents import describe_checkpoint
from ltpipe.pruning.layout import Layout
from ltpipe.pruning.masks import load_mask
from ltpipe.runtime.sources import Source

_MIXING = "not a matrix in a product (mul)"
_UNUSED = "not used by the forward pass"

# What stands out: tensors of blocks that are stacks or have their inputs first, and those that are left out, with `*`
# for numbers. Written by hand from the models' code.
ODD = {
    "llama": ({}, {}),
    "gpt2": (
        {
            "transformer.h.*.attn.c_attn.weight": (1, 32, 96, True),
            "transformer.h.*.attn.c_proj.weight": (1, 32, 32, True),
            "transformer.h.*.mlp.c_fc.weight": (1, 32, 128, True),
            "transformer.h.*.mlp.c_proj.weight": (1, 128, 32, True),
        },
        {},
    ),
    "mixtral": (
        {
            "model.layers.*.mlp.experts.gate_up_proj": (4, 96, 32, False),
            "model.layers.*.mlp.experts.down_proj": (4, 32, 48, False),
        },
        {},
    ),
    "dbrx": (
        {
            "transformer.blocks.*.ffn.experts.mlp.w1": (4, 32, 64, False),
            "transformer.blocks.*.ffn.experts.mlp.v1": (4, 32, 64, False),
            "transformer.blocks.*.ffn.experts.mlp.w2": (4, 32, 64, True),
        },
        {},
    ),
    "aria_text": (
        {
            "model.layers.*.mlp.experts.gate_up_proj": (4, 64, 192, True),
            "model.layers.*.mlp.experts.down_proj": (4, 96, 64, True),
        },
        {},
    ),
    "gpt_oss": (
        {
            "model.layers.*.mlp.experts.gate_up_proj": (4, 64, 192, True),
            "model.layers.*.mlp.experts.down_proj": (4, 96, 64, True),
        },
        {
            "model.layers.*.mlp.experts.gate_up_proj_bias": "not a matrix in a product (add_)",
            "model.layers.*.mlp.experts.down_proj_bias": "not a matrix in a product (add_)",
        },
    ),
    "llama4_text": (
        {
            "model.layers.*.feed_forward.experts.gate_up_proj": (4, 64, 192, True),
            "model.layers.*.feed_forward.experts.down_proj": (4, 96, 64, True),
        },
        {},
    ),
    "recurrent_gemma": (
        {
            "model.layers.*.temporal_block.rg_lru.input_gate_weight": (4, 16, 16, True),
            "model.layers.*.temporal_block.rg_lru.recurrent_gate_weight": (4, 16, 16, True),
        },
        {
            "model.layers.*.temporal_block.conv_1d.weight": "a convolution",
            "model.layers.*.temporal_block.rg_lru.input_gate_bias": "not a matrix in a product (baddbmm)",
            "model.layers.*.temporal_block.rg_lru.recurrent_gate_bias": "not a matrix in a product (baddbmm)",
        },
    ),
    "mamba": (
        {},
        {"backbone.layers.*.mixer.A_log": _MIXING, "backbone.layers.*.mixer.conv1d.weight": "a convolution"},
    ),
    "rwkv": (
        {},
        {
            f"rwkv.blocks.*.{part}.time_mix_{name}": _MIXING
            for part, names in {
                "attention": ("key", "value", "receptance"),
                "feed_forward": ("key", "receptance"),
            }.items()
            for name in names
        },
    ),
    "bart": (
        {},
        {
            f"model.decoder.layers.*.encoder_attn.{name}.weight": _UNUSED
            for name in ("k_proj", "v_proj", "q_proj", "out_proj")
        },
    ),
}


def pattern(name: str) -> str:
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def made(architecture: str) -> nn.Module:
    return tiny_model(architecture) if architecture in ARCHITECTURES else small_model(architecture)


@pytest.mark.parametrize("architecture", ODD)
def test_matrices_and_what_is_left_out(architecture):
    matrices, left_out = ODD[architecture]
    manifest = manifest_of(made(architecture), "made")
    inside = {name: entry for name, entry in manifest.tensors.items() if manifest.block_of(name)}
    found = {
        pattern(name): (*entry.matrices, entry.inputs_first)
        for name, entry in inside.items()
        if entry.matrices and (entry.inputs_first or entry.matrices != (1, *entry.shape))
    }
    assert found == matrices
    assert manifest.left_out() == left_out
    chosen = Selection().names(manifest)
    several = {name for name, entry in inside.items() if len(entry.shape) > 1}
    assert set(chosen) == {name for name in several if pattern(name) not in left_out}


# Weights with their inputs last, as each model's code has them.
INPUTS_LAST = {
    "aria_text": {"experts.gate_up_proj": lambda w: w.swapaxes(1, 2), "experts.down_proj": lambda w: w.swapaxes(1, 2)},
    "dbrx": {
        "mlp.w1": lambda w: w,
        "mlp.v1": lambda w: w,
        "mlp.w2": lambda w: w.reshape(4, 32, 64).swapaxes(1, 2),
    },
}


@pytest.mark.parametrize("architecture", INPUTS_LAST)
@pytest.mark.parametrize(("scope", "run"), [("2of4", 4), ("row", None)])
def test_experts_are_cut_along_consecutive_inputs(architecture, scope, run, tmp_path):
    source, folder = save_small(architecture, tmp_path / "source"), tmp_path / "canonical"
    load_checkpoint(Source(str(source)), None, "auto", folder)
    mask, weights = load_mask(make(folder, scope, "0.5", tmp_path / "mask")), TensorFile(folder / WEIGHTS)
    for ending, inputs_last in INPUTS_LAST[architecture].items():
        names = [name for name in mask if name.endswith(ending)]
        assert len(names) == 2
        for name in names:
            kept, size = inputs_last(mask[name].numpy()), inputs_last(abs(weights.array(name)))
            kept, size = (each.reshape(-1, run or each.shape[-1]) for each in (kept, size))
            assert (kept.sum(1) == kept.shape[1] // 2).all()
            assert (np.where(kept, size, np.inf).min(1) >= np.where(kept, 0, size).max(1)).all()


def test_the_load_stage_and_inspect_name_what_is_left_out(tmp_path, caplog):
    source, folder = save_small("rwkv", tmp_path / "source"), tmp_path / "canonical"
    with caplog.at_level(logging.INFO):
        load_checkpoint(Source(str(source)), None, "auto", folder)
    said = {f"left out of pruning: {name} ({reason})" for name, reason in ODD["rwkv"][1].items()}
    assert {record.message for record in caplog.records if "left out" in record.message} == said
    listings = {listing.title: listing.rows for listing in describe_checkpoint(folder / MANIFEST).listings}
    assert dict(listings["left out of pruning"]) == ODD["rwkv"][1]


@pytest.mark.parametrize(
    ("architecture", "blocks", "further"),
    [
        ("gemma3", "model.language_model.layers", ()),  # and not the larger vision tower
        ("hrm_text", "model.L_module.layers", ("model.H_module.layers",)),
        ("xlm", "transformer.ffns", ("transformer.attentions",)),
        ("gemma3n_text", "model.layers", ()),  # lists of projections beside the blocks are none
    ],
)
def test_the_blocks_are_those_that_the_forward_runs(architecture, blocks, further):
    model = made(architecture)
    manifest = manifest_of(model, "made")
    assert (manifest.blocks, manifest.further, blocks_name(model)) == (blocks, further, blocks)
    names = Selection().names(manifest)
    assert {manifest.block_of(name).rpartition(".")[0] for name in names} == {blocks, *further}
    numbers = {Layout.of(manifest).block(name) for name in names}
    assert len(numbers) == len({manifest.block_of(name) for name in names}), "each block has a number of its own"


@pytest.mark.parametrize(
    "architecture",
    [
        pytest.param(name, marks=() if name in ("dbrx", "aria_text", "gpt2", "llama4_text") else pytest.mark.slow)
        for name in sorted({*ARCHITECTURES, *SMALL} - {"gemma3"})
    ],
)
def test_inputs_lie_where_the_live_model_reads_them(architecture):
    model = made(architecture)
    check_orientation(model, manifest_of(model, "made"))


def test_a_model_is_left_as_it_was():
    model = small_model("rwkv")
    before = {name: (id(parameter), parameter.clone()) for name, parameter in model.named_parameters()}
    random = torch.get_rng_state()
    attributes = {name: dict(vars(module)) for name, module in model.named_modules()}
    parameter_uses(model)
    assert torch.equal(torch.get_rng_state(), random)
    for name, parameter in model.named_parameters():
        assert id(parameter) == before[name][0]
        assert torch.equal(parameter, before[name][1])
    assert {name: vars(module).keys() for name, module in model.named_modules()} == {
        name: found.keys() for name, found in attributes.items()
    }
    assert model.rwkv.layers_are_rescaled == attributes["rwkv"]["layers_are_rescaled"]


def test_a_skeleton_says_what_the_live_model_says():
    from ltpipe.streaming.skeleton import skeleton_of

    for architecture in ("dbrx", "gpt_oss", "qwen3_moe"):
        model = small_model(architecture)
        assert parameter_uses(skeleton_of(model.config, torch.float32)) == parameter_uses(model)


def test_what_cannot_be_followed_is_taken_by_its_class_and_said(caplog):
    model = small_model("aria_text")
    followed = parameter_uses(model)
    model.model.forward = lambda *_, **__: 1 / 0
    with caplog.at_level(logging.WARNING):
        found = parameter_uses(model)
    assert "could not trace how AriaTextForCausalLM uses its weights: division by zero" in caplog.text
    linear = {name for name, use in followed.items() if use.matrices}
    routers = {name for name in linear if name.endswith("router.weight")}
    assert {name for name, use in found.items() if use.matrices} == linear - routers
    assert all(found[name] == followed[name] for name in linear - routers)
    assert {found[name].otherwise for name in routers} == {"its use is unknown"}
