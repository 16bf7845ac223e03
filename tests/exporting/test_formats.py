"""Tickets in other tools' formats: read back by those tools, never by ltpipe."""

import json
import re
from pathlib import Path

import pytest
import safetensors.torch
import torch
from architectures import save_small
from byhand import masked_by_hand
from structured import make
from tiny import save_tiny

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.filenames import MANIFEST
from ltpipe.checkpoints.load import load_checkpoint
from ltpipe.exporting.formats import export_ticket
from ltpipe.exporting.plain import import_plain
from ltpipe.pruning.foreign import read_any_mask
from ltpipe.pruning.masks import load_mask, read_mask
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.sources import Source

ROOT = Path(__file__).parents[2]


@pytest.fixture
def ticket(canonical_folder, tmp_path, monkeypatch):
    """Function from an architecture to its folder and a mask of it; tensors are masked in several blocks."""
    monkeypatch.setattr("ltpipe.pruning.masks._UNPACKED", 1000)

    def made(architecture: str, **selection) -> tuple[Path, Path]:
        folder = canonical_folder(architecture)
        return folder, make(folder, "layer", "0.6", tmp_path / "mask.safetensors", **selection)

    return made


# --- Hugging Face


# A tied head; transposed matrices; other names on disk; fused experts in parts.
@pytest.mark.parametrize(
    "architecture",
    [
        "qwen2",
        "mixtral",
        pytest.param("gpt2", marks=pytest.mark.slow),
        pytest.param("gpt-neox", marks=pytest.mark.slow),
    ],
)
def test_plain_transformers_loads_the_ticket(architecture, ticket, source_folder, token_ids, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, mask = ticket(architecture)
    said = export_ticket("hf", mask, Checkpoint.open(folder), tmp_path / "hf")
    model, report = AutoModelForCausalLM.from_pretrained(
        tmp_path / "hf", local_files_only=True, output_loading_info=True
    )
    assert not any(report.values()), report
    by_hand = masked_by_hand(source_folder(architecture), load_mask(mask))
    expected, found = by_hand.state_dict(), model.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(token_ids).logits, by_hand(token_ids).logits, rtol=0, atol=0)
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert tied == (architecture in ("qwen2", "gpt2"))
    assert names_on_disk(tmp_path / "hf") == names_on_disk(source_folder(architecture))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf", local_files_only=True)
    assert tokenizer("w1 w2").input_ids == AutoTokenizer.from_pretrained(source_folder(architecture))("w1 w2").input_ids
    assert said.nbytes[0] == said.nbytes[1]
    pruned = sum(int((~kept).sum()) for kept in load_mask(mask).values())
    assert f"it does not shrink: {pruned:,} pruned weights are stored as zeros" in str(said)


# Tensors that are one on disk and several in the model; several experts in one dimension; experts with inputs first.
@pytest.mark.parametrize(
    "architecture",
    ["hrm_text", *(pytest.param(name, marks=pytest.mark.slow) for name in ("dbrx", "aria_text", "llama4_text"))],
)
def test_a_ticket_of_a_model_that_is_split_or_fused_on_load_comes_back(architecture, token_ids, tmp_path):
    from transformers import AutoModelForCausalLM

    source, folder = save_small(architecture, tmp_path / "source"), tmp_path / "canonical"
    load_checkpoint(Source(str(source)), None, "auto", folder)
    mask = make(folder, "layer", "0.6", tmp_path / "mask")
    export_ticket("hf", mask, Checkpoint.open(folder), tmp_path / "hf")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", local_files_only=True)
    by_hand = masked_by_hand(source, load_mask(mask))
    expected, found = by_hand.state_dict(), model.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(token_ids).logits, by_hand(token_ids).logits, rtol=0, atol=0)
    assert names_on_disk(tmp_path / "hf") == names_on_disk(source)


def names_on_disk(folder: Path) -> dict[str, tuple[torch.dtype, torch.Size]]:
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    return {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}


@pytest.mark.slow
def test_bfloat16_and_blocks_of_a_tensor(tmp_path, monkeypatch):
    """Parts of fused experts are bfloat16 too, and a tensor is masked in several blocks."""
    from transformers import AutoModelForCausalLM

    monkeypatch.setattr("ltpipe.pruning.masks._UNPACKED", 1000)
    save_tiny("mixtral", tmp_path / "source", dtype=torch.bfloat16)
    load_checkpoint(Source(str(tmp_path / "source")), None, "auto", tmp_path / "model")
    mask = make(tmp_path / "model", "global", "0.5", tmp_path / "mask")
    export_ticket("hf", mask, Checkpoint.open(tmp_path / "model"), tmp_path / "hf")
    expected = masked_by_hand(tmp_path / "source", load_mask(mask)).state_dict()
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "hf").state_dict()
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
    assert all(torch.equal(found[name], value) for name, value in expected.items())


# --- torch.nn.utils.prune


@pytest.mark.parametrize("selection", [{}, {"preset": "all-weights"}], ids=["linear", "tied embedding too"])
def test_state_dict_of_torch_prune(selection, ticket, source_folder, token_ids, tmp_path, monkeypatch):
    from transformers import AutoModelForCausalLM

    folder, mask = ticket("qwen2", **selection)
    said = export_ticket("torch-prune", mask, Checkpoint.open(folder), tmp_path / "state.safetensors")
    state = safetensors.torch.load_file(tmp_path / "state.safetensors")
    model = AutoModelForCausalLM.from_pretrained(source_folder("qwen2")).eval()
    monkeypatch.chdir(tmp_path)
    documented = re.findall(r"```python\n(.*?)```", (ROOT / "docs/export.md").read_text(), re.DOTALL)
    (code,) = (block for block in documented if "prune.identity" in block)
    exec(code, {"model": model})
    theirs = {name: tensor.dtype for name, tensor in model.state_dict().items()}
    assert theirs == {name: tensor.dtype for name, tensor in state.items()}
    by_hand = masked_by_hand(source_folder("qwen2"), load_mask(mask))
    with torch.no_grad():
        torch.testing.assert_close(model(token_ids).logits, by_hand(token_ids).logits, rtol=0, atol=0)
    dense = masked_by_hand(source_folder("qwen2"), None).state_dict()
    up = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(state[f"{up}_orig"], dense[up]), "originals are dense"
    assert said.nbytes[1] == sum(tensor.nbytes for tensor in state.values())


@pytest.mark.slow
def test_masks_of_torch_prune_in_bfloat16(tmp_path):
    save_tiny("gpt2", tmp_path / "source", dtype=torch.bfloat16)
    load_checkpoint(Source(str(tmp_path / "source")), None, "auto", tmp_path / "model")
    mask = make(tmp_path / "model", "global", "0.5", tmp_path / "mask")
    export_ticket("torch-prune", mask, Checkpoint.open(tmp_path / "model"), tmp_path / "state")
    state = safetensors.torch.load_file(tmp_path / "state")
    for name, kept in load_mask(mask).items():
        assert state[f"{name}_mask"].dtype == torch.bfloat16
        assert torch.equal(state[f"{name}_mask"], kept.bfloat16())


# --- plain bool


def test_bool_tensors_there_and_back(ticket, tmp_path):
    folder, mask = ticket("llama")
    export_ticket("bool", mask, None, tmp_path / "plain")
    plain = safetensors.torch.load_file(tmp_path / "plain")
    expected = load_mask(mask)
    assert plain.keys() == expected.keys()
    assert all(tensor.dtype == torch.bool and torch.equal(tensor, expected[name]) for name, tensor in plain.items())
    import_plain(tmp_path / "plain", Checkpoint.open(folder), tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == mask.read_bytes()


def test_masks_of_other_tools(canonical_folder, tmp_path):
    """No metadata, tensors in any order, a tied parameter under its other name, matrices without a mask."""
    folder, generator = canonical_folder("qwen2"), torch.Generator().manual_seed(0)
    theirs = {
        "model.layers.2.mlp.up_proj.weight": torch.rand((48, 32), generator=generator) > 0.3,
        "lm_head.weight": torch.rand((96, 32), generator=generator) > 0.5,
    }
    safetensors.torch.save_file(theirs, tmp_path / "theirs")
    imported = import_plain(tmp_path / "theirs", Checkpoint.open(folder), tmp_path / "mask", "wanda-elsewhere")
    mask, found = read_mask(tmp_path / "mask"), load_mask(tmp_path / "mask")
    assert list(found) == ["model.embed_tokens.weight", "model.layers.2.mlp.up_proj.weight"]
    assert torch.equal(found["model.embed_tokens.weight"], theirs["lm_head.weight"])
    assert torch.equal(found["model.layers.2.mlp.up_proj.weight"], theirs["model.layers.2.mlp.up_proj.weight"])
    assert (mask.criterion, mask.scope, mask.seed) == ("wanda-elsewhere", "unknown", None)
    assert mask.checkpoint == json.loads((folder / MANIFEST).read_text())["fingerprint"]
    total = sum(tensor.numel() for tensor in theirs.values())
    assert float(mask.sparsity) == pytest.approx(1 - sum(int(tensor.sum()) for tensor in theirs.values()) / total)
    assert len(imported.missing) == 3 * 7 - 1
    assert "20 weight matrices of the blocks have no mask and stay dense: model.layers.0.mlp.down_proj.weight" in str(
        imported
    )


@pytest.mark.parametrize(
    ("tensors", "metadata", "words"),
    [
        (
            {"model.layers.9.mlp.up_proj.weight": (48, 32)},
            None,
            "'model.layers.9.mlp.up_proj.weight' is not a parameter",
        ),
        (
            {"model.layers.1.mlp.up_proj.weight": (32, 48)},
            None,
            r"has shape \[32, 48\], but \[48, 32\] in Qwen2ForCausalLM",
        ),
        ({"lm_head.weight": (96, 32), "model.embed_tokens.weight": (96, 32)}, None, "are one tied parameter"),
        ({"model.layers.1.mlp.up_proj.weight": (48, 32)}, {"checkpoint": "0" * 64}, "mask of another model"),
        ({}, None, "has no tensors"),
    ],
)
def test_foreign_masks_that_do_not_fit(tensors, metadata, words, canonical_folder, tmp_path):
    bools = {name: torch.ones(shape, dtype=torch.bool) for name, shape in tensors.items()}
    safetensors.torch.save_file(bools, tmp_path / "theirs", metadata)
    with pytest.raises(UserError, match=words) as caught:
        import_plain(tmp_path / "theirs", Checkpoint.open(canonical_folder("qwen2")), tmp_path / "mask")
    assert str(caught.value).startswith(str(tmp_path / "theirs"))
    assert not (tmp_path / "mask").exists()


def test_numbers_are_no_mask(tmp_path):
    safetensors.torch.save_file({"a": torch.ones(3)}, tmp_path / "theirs")
    with pytest.raises(UserError, match="not a mask: 'a' is F32; use a mask file of ltpipe"):
        read_any_mask(tmp_path / "theirs")


@pytest.mark.parametrize("kind", ["hf", "torch-prune", "smaller"])
def test_formats_that_need_the_weights(kind, tmp_path):
    with pytest.raises(UserError, match=f"format {kind} needs the weights: give --checkpoint FOLDER"):
        export_ticket(kind, tmp_path / "mask", None, tmp_path / "out")


@pytest.mark.parametrize("kind", ["hf", "torch-prune"])
def test_a_mask_of_another_model_is_refused(kind, ticket, canonical_folder, tmp_path):
    _, mask = ticket("llama")
    with pytest.raises(UserError, match="mask of another model"):
        export_ticket(kind, mask, Checkpoint.open(canonical_folder("qwen2")), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_dense_model_goes_through_the_same_door(canonical_folder, source_folder, tmp_path):
    from transformers import AutoModelForCausalLM

    said = export_ticket("hf", None, Checkpoint.open(canonical_folder("mixtral")), tmp_path / "dense")
    assert str(said).endswith("the dense model")
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "dense", local_files_only=True).state_dict()
    expected = AutoModelForCausalLM.from_pretrained(source_folder("mixtral"), local_files_only=True).state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    with pytest.raises(UserError, match="format bool needs a mask"):
        export_ticket("bool", None, None, tmp_path / "bool")


def test_how_a_model_generates_travels(tmp_path):
    from transformers import GenerationConfig

    source = save_tiny("llama", tmp_path / "source")
    chosen = GenerationConfig(do_sample=True, temperature=0.6, top_p=0.9, eos_token_id=[1, 2])
    chosen.save_pretrained(source)
    load_checkpoint(Source(str(source)), None, "auto", tmp_path / "model")
    export_ticket("hf", None, Checkpoint.open(tmp_path / "model"), tmp_path / "hf")
    found = GenerationConfig.from_pretrained(tmp_path / "hf")
    assert (found.do_sample, found.temperature, found.top_p) == (True, 0.6, 0.9)
    assert found.eos_token_id == [1, 2]
