"""Architectures that break the assumptions of a walk, from a saved folder to a loss, against transformers."""

import numpy as np
import pytest
import torch
from architectures import small_config
from tiny import tiny_tokenizer

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.filenames import MANIFEST, TOKENIZER
from ltpipe.checkpoints.load import load_checkpoint
from ltpipe.checkpoints.manifest import Manifest, Walks
from ltpipe.checkpoints.prunable import Selection
from ltpipe.data.sequences import TokenSequences
from ltpipe.evaluation.computing import ComputeSettings
from ltpipe.evaluation.evaluate import evaluate_checkpoint
from ltpipe.pruning.scorefile import ScoreFile
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.files import sha256_of
from ltpipe.runtime.sources import Source
from ltpipe.scoring.score import score_checkpoint
from ltpipe.streaming.guard import judge, random_model
from ltpipe.streaming.small import small_configs

CASES = {  # model type, its own settings, how it is executed
    "weights that a parent looks at": ("llama4_text", {}, "streamed"),
    "blocks that share a dict": ("gemma4_text", {}, "in-memory"),
    "weights that the forward rescales": ("rwkv", {"num_hidden_layers": 8}, "in-memory"),
    "shapes that depend on contents": ("dbrx", {}, "streamed"),
    "an embedding that is stored as its head": ("camembert", {"is_decoder": True}, "streamed"),
    "a mask that the model makes": ("biogpt", {}, "streamed"),
    "a decoder of an encoder-decoder": ("bart", {}, "streamed"),
}


def saved(name, extra, folder, dtype=torch.float32):
    random_model(small_config(name, **extra)).to(dtype).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def tokens(count=5, length=24):
    return torch.randint(2, 512, (count, length), generator=torch.Generator().manual_seed(3))


def sequences(ids, model):
    path = model.parent / "sequences"
    TokenSequences(ids.int().numpy(), len(ids), 1, sha256_of(model / TOKENIZER)).write(path)
    return path


def loaded(source, folder, dtype="auto"):
    load_checkpoint(Source(str(source), "models.m.source"), None, dtype, folder, judge)
    return folder


def plain_loss(source, ids, dtype="auto"):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype).eval()
    with torch.no_grad():
        logits = model(input_ids=ids).logits[:, :-1].float()
    return float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()))


def evaluated(model, ids, **settings):
    settings = ComputeSettings(device="cpu", threads=1, **settings)
    return evaluate_checkpoint(Checkpoint.open(model), sequences(ids, model), settings, {"model": "m", "data": "d"})


@pytest.mark.parametrize("case", CASES)
def test_losses_are_those_of_transformers(case, tmp_path):
    name, extra, execution = CASES[case]
    source = saved(name, extra, tmp_path / "source")
    model, ids = loaded(source, tmp_path / "model"), tokens()
    wanted = plain_loss(source, ids)
    for settings in ({"micro_batch": 2}, {"micro_batch": 1}, {}, {"micro_batch": 2, "execution": "in-memory"}):
        metrics = evaluated(model, ids, **settings)
        assert metrics.loss == pytest.approx(wanted, rel=1e-6), settings
        assert metrics.execution.startswith("in-memory" if "execution" in settings else execution)


def test_what_transformers_keeps_in_float32_is_computed_in_float32(tmp_path):
    """The selection bias of DeepSeek-V3's router: rounded to bfloat16, it sends tokens to other experts."""
    source = saved("deepseek_v3", {}, tmp_path / "source")
    from safetensors.torch import load_file, save_file

    weights = load_file(source / "model.safetensors")
    (bias,) = [name for name in weights if "e_score_correction_bias" in name]
    weights[bias] = 1 + 1e-3 * torch.randn(weights[bias].shape, generator=torch.Generator().manual_seed(0))
    save_file(weights, source / "model.safetensors", {"format": "pt"})
    ids = tokens(8, 64)
    stored = loaded(source, tmp_path / "bfloat16", "bfloat16")
    assert [entry.dtype for name, entry in Manifest.read(stored / MANIFEST).tensors.items() if "bias" in name] == [
        "F32"
    ]
    for model, settings in ((stored, {}), (loaded(source, tmp_path / "float32"), {"precision": "bfloat16"})):
        metrics = evaluated(model, ids, micro_batch=8, **settings)
        assert metrics.precision == "bfloat16"
        assert metrics.loss == pytest.approx(plain_loss(source, ids, torch.bfloat16), abs=2e-4)


def test_taylor_scores_of_blocks_that_share_a_dict_are_those_of_autograd(tmp_path):
    from transformers import AutoModelForCausalLM

    source = saved("gemma4_text", {}, tmp_path / "source")
    model, ids = loaded(source, tmp_path / "model"), tokens(3)
    live = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    names = Selection().names(Manifest.read(model / MANIFEST))
    wanted = dict.fromkeys(names, 0)
    for sequence in ids.split(1):
        live.zero_grad()
        logits = live(input_ids=sequence).logits[0, :-1].float()
        torch.nn.functional.cross_entropy(logits, sequence[0, 1:], reduction="sum").backward()
        for name in names:
            parameter = live.get_parameter(name)
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            wanted[name] += (parameter * gradient).abs().detach().numpy() / len(ids)
    settings = ComputeSettings(device="cpu", threads=1, micro_batch=1)
    path = tmp_path / "scores"
    score_checkpoint(Checkpoint.open(model), "taylor", path, Selection(), sequences(ids, model), settings)
    file = ScoreFile(path)
    for name in names:
        np.testing.assert_allclose(file.array(name), wanted[name], rtol=1e-3, atol=1e-4 * wanted[name].max() + 1e-12)


def test_a_model_that_looks_ahead_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"^models.m.source: .*BertLMHeadModel sees the tokens it has to predict"):
        loaded(saved("bert", {"is_decoder": False}, tmp_path / "source"), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_gradients_that_transformers_cannot_take_are_refused(tmp_path):
    name, extra, _ = CASES["weights that the forward rescales"]
    model = loaded(saved(name, extra, tmp_path / "source"), tmp_path / "model")
    data, settings = sequences(tokens(2, 8), model), ComputeSettings(device="cpu", threads=1)
    with pytest.raises(UserError, match=r"RwkvForCausalLM has no gradients .*; use a criterion that needs none"):
        score_checkpoint(
            Checkpoint.open(model), "taylor", tmp_path / "scores", Selection(include=["*.key.weight"]), data, settings
        )


@pytest.mark.parametrize("name", ["gpt2", "gptj"], ids=["table outside the blocks", "table in the blocks"])
def test_more_tokens_than_the_model_has_positions(name, tmp_path):
    source = saved(name, {"max_position_embeddings": 16, "rotary_dim": 8}, tmp_path / "source")
    model = loaded(source, tmp_path / "model")
    assert evaluated(model, tokens(2, 16)).loss > 0
    with pytest.raises(UserError, match=r"sequence_length: 17 tokens are too many; .* takes at most 16"):
        evaluated(model, tokens(2, 17))


def test_the_guard_sees_what_depends_on_other_sequences(monkeypatch):
    from transformers.models.llama.modeling_llama import LlamaDecoderLayer

    own = LlamaDecoderLayer.forward
    monkeypatch.setattr(LlamaDecoderLayer, "forward", lambda self, x, **named: own(self, x, **named) + 0.01 * x.mean(0))
    with pytest.raises(UserError, match="gives a sequence different logits in the company of other sequences"):
        judge(small_config("llama"))


def test_small_copies_are_small_and_have_every_kind_of_layer():
    from transformers import AutoConfig

    large = AutoConfig.for_model("llama", hidden_size=4096, num_hidden_layers=80)
    small = next(small_configs(large))
    assert small.num_hidden_layers == 4
    assert small.hidden_size == 256
    assert large.num_hidden_layers == 80
    mixed = AutoConfig.for_model("deepseek_v3", first_k_dense_replace=3, num_hidden_layers=61)
    assert next(small_configs(mixed)).num_hidden_layers > 3
    assert judge(large) == Walks()


@pytest.mark.parametrize("large", [True, False], ids=["shrunk", "as it is"])
def test_only_a_model_that_was_not_shrunk_is_refused_for_not_running(large, monkeypatch):
    from transformers import AutoConfig, LlamaForCausalLM

    def broken(*_, **__):
        raise ValueError("needs an image")

    monkeypatch.setattr(LlamaForCausalLM, "forward", broken)
    if large:
        walks = judge(AutoConfig.for_model("llama"))
        assert "no small copy of it could be run (needs an image)" in walks.forward
        assert walks.head
        return
    with pytest.raises(UserError, match=r"cannot be run on tokens alone \(needs an image\)"):
        judge(small_config("llama"))
