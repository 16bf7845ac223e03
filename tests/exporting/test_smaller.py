"""Smaller checkpoints against the masked model: plain transformers on both sides."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from byhand import masked_by_hand
from safetensors import safe_open
from structured import make, masks

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.load import load_checkpoint
from ltpipe.checkpoints.tensorwriter import TensorData, write_tensors
from ltpipe.exporting.smaller import export_smaller
from ltpipe.pruning.families import STRUCTURED_MODELS
from ltpipe.pruning.masks import load_mask, read_mask
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.sources import Source

CASES = [
    (name, scope)
    for name in ("llama", "llama-biases", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "opt")
    for scope in ("heads", "channels", "blocks")
    if (name, scope) not in [("llama-biases", "blocks"), ("opt", "heads"), ("opt", "blocks")]
]
SPARSITY = {"heads": "0.4", "channels": "0.4", "blocks": "0.5"}


def losses(model: torch.nn.Module, token_ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found = [model.float()(input_ids=ids[None], labels=ids[None]).loss for ids in token_ids]
    return torch.stack(found).double()


def reloaded(folder: Path) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM

    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    return model.eval()


@pytest.fixture
def exported(unit_folder, tmp_path) -> Callable:
    """Function from a model and a scope to its mask, the smaller folder and what export said of it."""

    def made(name: str, scope: str, criterion: str = "magnitude", dtype: torch.dtype = torch.float32):
        mask = make(unit_folder(name, dtype), scope, SPARSITY[scope], tmp_path / "mask", criterion)
        return (
            mask,
            tmp_path / "smaller",
            export_smaller(Checkpoint.open(unit_folder(name, dtype)), mask, tmp_path / "smaller"),
        )

    return made


@pytest.mark.parametrize(("name", "scope"), CASES)
def test_smaller_model_has_the_loss_of_the_masked_one(name, scope, exported, unit_source, token_ids, tmp_path):
    mask, folder, said = exported(name, scope)
    model = reloaded(folder)
    expected = losses(masked_by_hand(unit_source(name), load_mask(mask)), token_ids)
    torch.testing.assert_close(losses(model, token_ids), expected, rtol=1e-5, atol=0)
    dense = masked_by_hand(unit_source(name), None)
    assert not torch.allclose(losses(dense, token_ids), expected, rtol=1e-2), "the mask has to matter"

    assert said.parameters == (parameters(dense), parameters(model))
    model.save_pretrained(tmp_path / "saved")
    assert shapes(folder) == shapes(tmp_path / "saved"), "these are the names that Hugging Face itself writes"
    assert said.nbytes[1] == 4 * sum(np.prod(shape) for shape in shapes(folder).values())


def parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    with safe_open(folder / "model.safetensors", "pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize(
    ("name", "scope", "gone"),
    [
        # One group of a block: queries 2 heads x 8 rows, keys and values 8 each, output 16 columns; 48 hidden.
        ("llama", "heads", 4 * (16 + 8 + 8 + 16) * 48),
        ("qwen2", "heads", 4 * ((16 + 8 + 8 + 16) * 48 + 16 + 8 + 8)),
        ("gemma", "heads", 4 * (32 + 16 + 16 + 32) * 48),
        # 16 of 40 channels: a row of gate and up and a column of down each, and biases of the rows.
        ("llama", "channels", 4 * 16 * 3 * 48),
        ("llama-biases", "channels", 4 * 16 * (3 * 48 + 2)),
        ("opt", "channels", 4 * 16 * (2 * 48 + 1)),
        # Two blocks: q and o, k and v, the MLP, two norms.
        ("llama", "blocks", 2 * (2 * 48 * 48 + 2 * 24 * 48 + 3 * 40 * 48 + 2 * 48)),
    ],
)
def test_parameters_shrink_as_computed_by_hand(name, scope, gone, exported):
    _, _, said = exported(name, scope)
    before, after = said.parameters
    assert before - after == gone


def test_configuration_says_what_is_left(exported, unit_folder):
    def changed(name: str, scope: str) -> dict[str, object]:
        _, folder, _ = exported(name, scope)
        before, after = (json.loads((place / "config.json").read_text()) for place in (unit_folder(name), folder))
        shutil.rmtree(folder)
        return {key: value for key, value in after.items() if value != before.get(key)}

    # Qwen2 has no head_dim of its own: without it 48 / 4 = 12 would be taken.
    assert changed("qwen2", "heads") == {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    assert changed("gemma", "heads") == {"num_attention_heads": 4, "num_key_value_heads": 2}
    assert changed("llama", "channels") == {"intermediate_size": 24}
    assert changed("opt", "channels") == {"ffn_dim": 24}
    assert changed("mistral", "blocks") == {"num_hidden_layers": 2}


def test_kinds_of_layers_go_with_their_blocks(unit_folder, tmp_path):
    """Gemma2 alternates; without its second block two of one kind follow each other."""

    def prune_second(kept: dict[str, np.ndarray]) -> None:
        for name in kept:
            if name.startswith("model.layers.1."):
                kept[name][:] = False

    folder, stay = unit_folder("gemma2"), [0, 2, 3]
    mask = rewritten(make(folder, "blocks", "0", tmp_path / "mask"), prune_second)
    export_smaller(Checkpoint.open(folder), mask, tmp_path / "smaller")
    before, after = (json.loads((place / "config.json").read_text()) for place in (folder, tmp_path / "smaller"))
    assert after["layer_types"] == [before["layer_types"][block] for block in stay]
    dense, smaller = (safetensors.torch.load_file(f / "model.safetensors") for f in (folder, tmp_path / "smaller"))
    for new, old in enumerate(stay):
        for name in ("self_attn.k_proj", "mlp.down_proj", "input_layernorm"):
            torch.testing.assert_close(
                smaller[f"model.layers.{new}.{name}.weight"], dense[f"model.layers.{old}.{name}.weight"], rtol=0, atol=0
            )


def test_smaller_model_and_its_tokenizer_are_a_source_again(exported, tmp_path):
    from transformers import AutoTokenizer

    _, folder, said = exported("llama", "heads")
    assert AutoTokenizer.from_pretrained(folder)("w5 w7 w9").input_ids == [8, 10, 12]
    manifest = load_checkpoint(Source(str(folder)), None, "auto", tmp_path / "again")
    assert (manifest.parameters, manifest.nbytes) == (said.parameters[1], said.nbytes[1])


def test_ties_stay_tied_and_the_origin_is_told(exported):
    _, folder, _ = exported("qwen2", "heads")
    model = reloaded(folder)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert "lm_head.weight" not in shapes(folder)
    assert sorted(path.name for path in folder.iterdir()) == [
        *("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    ]
    with safe_open(folder / "model.safetensors", "pt") as file:
        origin = file.metadata()
    assert (origin["scope"], origin["criterion"], origin["sparsity"]) == ("heads", "magnitude", "0.4")


@pytest.mark.parametrize("scope", ["heads", "channels"])
def test_bfloat16_tensors_are_slices(scope, exported, unit_source, monkeypatch, token_ids):
    monkeypatch.setattr("ltpipe.exporting.smaller._COPIED", 100)  # a few rows at a time
    mask, folder, _ = exported("qwen2", scope, "random", torch.bfloat16)
    model = reloaded(folder)
    assert model.dtype == torch.bfloat16
    masked = masked_by_hand(unit_source("qwen2", torch.bfloat16), load_mask(mask))
    for name, kept in load_mask(mask).items():
        rows, columns = kept.any(1), kept.any(0)
        torch.testing.assert_close(
            model.get_parameter(name), masked.get_parameter(name)[rows][:, columns], rtol=0, atol=0
        )
    torch.testing.assert_close(losses(model, token_ids), losses(masked, token_ids), rtol=1e-5, atol=0)


# --- refusals: one line, and nothing is written


def refuses(folder: Path, mask: Path, words: str) -> None:
    output = mask.parent / "out" / "smaller"
    with pytest.raises(UserError, match=words):
        export_smaller(Checkpoint.open(folder), mask, output)
    assert not output.parent.exists() or list(output.parent.iterdir()) == []


def rewritten(mask: Path, change: Callable[[dict[str, np.ndarray]], None], **metadata: str) -> Path:
    """The mask with some of its bools changed, as a file that is sound in itself."""
    old, kept = read_mask(mask), {name: array.copy() for name, array in masks(mask).items()}
    change(kept)
    with safe_open(mask, "np") as file:
        content = file.metadata() | metadata
    content["kept"] = json.dumps({name: int(array.sum()) for name, array in kept.items()})
    packed = {name: np.packbits(array, bitorder="little") for name, array in kept.items()}
    path = mask.with_suffix(".rewritten")
    write_tensors(path, [TensorData.of(name, packed[name]) for name in old.bits], content)
    return path


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_unstructured_masks_are_refused(scope, unit_folder, tmp_path):
    mask = make(unit_folder("llama"), scope, "0.5", tmp_path / "mask")
    refuses(unit_folder("llama"), mask, rf"scope '{scope}' .* use a mask of scope heads, channels, blocks")
    disguised = rewritten(mask, lambda _: None, scope="channels")
    refuses(unit_folder("llama"), disguised, "does not prune whole channels")


@pytest.mark.parametrize("tensor", ["self_attn.o_proj", "self_attn.k_proj", "mlp.up_proj"])
def test_torn_units_are_refused(tensor, unit_folder, tmp_path):
    """One weight too many, inside a tensor of the unit or outside."""
    mask = make(unit_folder("llama"), "heads", "0.3", tmp_path / "mask")
    name = f"model.layers.2.{tensor}.weight"

    def tear(kept: dict[str, np.ndarray]) -> None:
        kept[name].reshape(-1)[np.flatnonzero(kept[name])[-1]] = False

    refuses(unit_folder("llama"), rewritten(mask, tear), f"'{name}' does not prune whole heads")


def test_blocks_of_different_sizes_are_refused(unit_folder, tmp_path):
    mask = make(unit_folder("llama"), "channels", "0.5", tmp_path / "mask")

    def revive(kept: dict[str, np.ndarray]) -> None:
        (dead, *_) = np.flatnonzero(~kept["model.layers.1.mlp.up_proj.weight"].any(1))
        for name in ("gate_proj", "up_proj"):
            kept[f"model.layers.1.mlp.{name}.weight"][dead] = True
        kept["model.layers.1.mlp.down_proj.weight"][:, dead] = True

    refuses(unit_folder("llama"), rewritten(mask, revive), "from 20 to 21 channels")


@pytest.mark.parametrize("scope", ["heads", "channels", "blocks"])
def test_nothing_left_is_refused(scope, unit_folder, tmp_path):
    mask = make(unit_folder("llama"), scope, "1", tmp_path / "mask")
    refuses(unit_folder("llama"), mask, f"prunes all {scope}; a checkpoint needs at least one")


def test_heads_that_no_configuration_expresses_are_refused(unit_folder, tmp_path):
    mask = make(unit_folder("opt"), "heads", "0.5", tmp_path / "opt")
    refuses(unit_folder("opt"), mask, "OPTForCausalLM cannot express fewer heads; use a mask of scope channels")
    mask = make(unit_folder("llama-odd"), "heads", "0.25", tmp_path / "odd")
    refuses(unit_folder("llama-odd"), mask, "hidden size 64, but 3 groups .* keep 1, 2, 4 of 4")


@pytest.mark.parametrize(
    "architecture", [name for name, known in STRUCTURED_MODELS.items() if "heads" in known.exported]
)
def test_transformers_demands_what_the_layouts_say(architecture):
    """Three heads of 16 in a hidden size of 64."""
    import transformers
    from huggingface_hub.errors import StrictDataclassError

    config_class = getattr(transformers, architecture).config_class
    numbers = {"hidden_size": 64, "num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 16}
    if STRUCTURED_MODELS[architecture].heads_divide:
        with pytest.raises(StrictDataclassError, match="not a multiple of the number of attention heads"):
            config_class(**numbers)
    else:
        assert config_class(**numbers).head_dim == 16


def test_masks_of_another_model_are_refused(unit_folder, tmp_path):
    mask = make(unit_folder("qwen3"), "heads", "0.3", tmp_path / "mask")
    refuses(unit_folder("llama"), mask, "mask of another model")


def test_failure_leaves_nothing_behind(unit_folder, tmp_path):
    shutil.copytree(unit_folder("llama"), tmp_path / "model")
    (tmp_path / "model/tokenizer_config.json").unlink()
    mask = make(tmp_path / "model", "heads", "0.3", tmp_path / "mask")
    refuses(tmp_path / "model", mask, "tokenizer_config.json: no such file")


def test_folders_with_something_in_them_are_left_alone(unit_folder, tmp_path):
    mask = make(unit_folder("llama"), "heads", "0.3", tmp_path / "mask")
    output = tmp_path / "smaller"
    output.mkdir()
    export_smaller(Checkpoint.open(unit_folder("llama")), mask, output)  # empty: Snakemake makes it before the job
    before = {path: path.read_bytes() for path in output.iterdir()}
    with pytest.raises(UserError, match="smaller: already exists"):
        export_smaller(Checkpoint.open(unit_folder("llama")), mask, output)
    assert {path: path.read_bytes() for path in output.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
