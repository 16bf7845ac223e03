"""Causal language models: against transformers' own loss and weights, with texts that show where tokens came from."""

import json
import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from tiny import random_model, tiny_model, tiny_tokenizer
from tokenizers import Tokenizer
from trainings import CPU, settings

from ltpipe.checkpoints.load import write_canonical
from ltpipe.data.documents import Document, split_documents
from ltpipe.data.vocabulary import train_tokenizer
from ltpipe.runtime.determinism import stable_seed
from ltpipe.runtime.errors import UserError
from ltpipe.training import levels
from ltpipe.training.loop import train
from ltpipe.training.state import rewind, start_of
from ltpipe.training.task import read_task, write_task
from ltpipe.training.tasks.text import TextTask
from ltpipe.training.validate import evaluate

TINY_LLAMA = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    "tie_word_embeddings": True,
}
TINY_GPT2 = {"model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
ARCHITECTURES = {"llama": TINY_LLAMA, "gpt2": TINY_GPT2}
LENGTH, DOCUMENTS = 16, 20
LETTERS = "ABCDEFGHIJKLMNOPQRST"  # document n has the n-th, in runs of eight, and no other capital


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A folder of 20 texts: words of small letters that all share, and a word that only one has."""
    folder = tmp_path_factory.mktemp("texts")
    words = ["the", "house", "of", "commons", "shall", "meet", "again", "when", "all", "members", "come", "home"]
    generator = random.Random(0)
    for number, letter in enumerate(LETTERS):
        text = " ".join(" ".join(generator.choices(words, k=3)) + f" {letter * 8}" for _ in range(40))
        (folder / f"{number:02}.txt").write_text(text)
    return folder


def options(texts, **changes):
    given = {
        "source": str(texts),
        "files": "**/*",
        "field": "text",
        "documents": "all",
        "separator": "\n\n",
        "sequence_length": LENGTH,
        "evaluation_sequences": None,
        "validation": "0.15",
        "test": "0.1",
        "split_seed": 3,
        "architecture": TINY_LLAMA,
        "vocabulary": 300,
        "checkpoint": None,
        "prunable": {},
        "key": "imp.mine.task",
    }
    return given | changes


@pytest.fixture(scope="module")
def prepared(texts):
    """Function from an architecture to a task, each prepared once."""
    return {name: TextTask.prepare(**options(texts, architecture=each)) for name, each in ARCHITECTURES.items()}


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """Texts for the tokenizer of the tiny checkpoints."""
    folder = tmp_path_factory.mktemp("words")
    generator = random.Random(1)
    for number in range(6):
        (folder / f"{number}.txt").write_text(" ".join(f"w{generator.randrange(90)}" for _ in range(100)))
    return folder


def of_checkpoint(words, folder, **changes):
    return TextTask.prepare(**options(words, architecture=None, checkpoint=str(folder), separator=" ", **changes))


def letters_of(task, part):
    text = Tokenizer.from_str(task.tokenizer).decode(getattr(task, part).inputs.flatten().tolist())
    return {letter for letter in text if letter.isupper()}


def values(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# --- texts


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_loss_is_that_of_transformers(architecture, prepared):
    task = prepared[architecture]
    model = task.build(1).eval()
    examples = task.validation
    assert examples.inputs.dtype == examples.labels.dtype == torch.int64
    assert torch.equal(examples.labels, examples.inputs[:, 1:])
    assert task.logits(model, examples.inputs).shape == (len(examples), LENGTH - 1, 300)
    inputs = examples.inputs[:8]
    wanted = model(input_ids=inputs, labels=inputs).loss
    torch.testing.assert_close(task.loss(model, inputs, examples.labels[:8]), wanted, rtol=1e-6, atol=0)
    # evaluation adds up parts of another size
    whole = model(input_ids=examples.inputs, labels=examples.inputs).loss.item()
    assert evaluate(task, model, examples)[0] == pytest.approx(whole, rel=1e-6)


def test_no_document_reaches_two_parts(prepared):
    task = prepared["llama"]
    parts = {part: letters_of(task, part) for part in ("train", "validation", "test")}
    assert {part: len(letters) for part, letters in parts.items()} == {"train": 15, "validation": 3, "test": 2}
    assert set.union(*parts.values()) == set(LETTERS)


def test_windows_are_the_texts_without_their_tail(prepared, texts):
    task = prepared["llama"]
    tokenizer = Tokenizer.from_str(task.tokenizer)
    whole = "".join(
        (texts / f"{LETTERS.index(each):02}.txt").read_text() + "\n\n" for each in sorted(letters_of(task, "test"))
    )
    decoded = tokenizer.decode(task.test.inputs.flatten().tolist())
    assert whole.startswith(decoded)
    assert len(tokenizer.encode(whole[len(decoded) :]).ids) < LENGTH


def test_the_tokenizer_never_saw_what_is_held_out(prepared):
    task = prepared["llama"]
    entries = Tokenizer.from_str(task.tokenizer).get_vocab()
    assert len(entries) == 300
    learned = {letter for letter in LETTERS if any(letter * 2 in entry for entry in entries)}
    assert learned == letters_of(task, "train")


def test_the_tokenizer_writes_any_text(prepared):
    text = "Zürich \u4e2d\u6587\n\t \x00 naïve\U0001f600"
    tokenizer = Tokenizer.from_str(prepared["llama"].tokenizer)
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_split_counts_and_seeds():
    documents = [Document(str(number), "") for number in range(25)]
    parts = split_documents(documents, "0.1", 0.18, 7, "key")
    # 2.5 is rounded to even, 4.5 too
    assert {part: len(chosen) for part, chosen in parts.items()} == {"train": 19, "validation": 2, "test": 4}
    order = np.random.default_rng(stable_seed(7, "split")).permutation(25).tolist()
    found = {part: [int(document.name) for document in chosen] for part, chosen in parts.items()}
    assert found == {"train": sorted(order[6:]), "validation": sorted(order[4:6]), "test": sorted(order[:4])}
    assert split_documents(documents, "0.1", 0.18, 8, "key") != parts
    smallest = split_documents(documents[:3], 0.01, 0.01, 0, "key")
    assert [len(chosen) for chosen in smallest.values()] == [1, 1, 1]


def test_evaluation_windows_are_spread_over_the_part(prepared, texts):
    whole = prepared["llama"]
    some = TextTask.prepare(**options(texts, evaluation_sequences=7))
    assert torch.equal(some.train.inputs, whole.train.inputs)
    for part in ("validation", "test"):
        windows = getattr(whole, part).inputs
        rows = [number * len(windows) // 7 for number in range(7)]
        assert torch.equal(getattr(some, part).inputs, windows[rows])
    assert len(TextTask.prepare(**options(texts, evaluation_sequences=10**6)).test) == len(whole.test)


# --- files


@pytest.mark.slow
def test_bytes_are_those_of_another_process(prepared, texts, tmp_path):
    script = (
        "import json, sys; from pathlib import Path; from ltpipe.training.task import task_named, write_task; "
        "task = task_named('text').prepare(**json.loads(sys.argv[1])); write_task(Path(sys.argv[2]), 'text', task)"
    )
    command = [sys.executable, "-c", script, json.dumps(options(texts)), tmp_path / "there"]
    subprocess.run(
        command, env={**os.environ, "PYTHONHASHSEED": "7", "RAYON_NUM_THREADS": "3"}, check=True, timeout=120
    )
    write_task(tmp_path / "here", "text", prepared["llama"])
    assert (tmp_path / "there").read_bytes() == (tmp_path / "here").read_bytes()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_round_trip(architecture, prepared, tmp_path):
    task = prepared[architecture]
    write_task(tmp_path / "task", "text", task)
    again = read_task(tmp_path / "task")
    assert again.stored()[0]["train/windows"].dtype == np.int32
    for part in ("train", "validation", "test"):
        assert torch.equal(getattr(again, part).inputs, getattr(task, part).inputs)
        assert torch.equal(getattr(again, part).labels, getattr(task, part).labels)
    assert again.pretrained() is None
    assert same(values(again.start(5)), values(task.start(5)))
    write_task(tmp_path / "second", "text", again)  # after a model was built of it
    assert (tmp_path / "second").read_bytes() == (tmp_path / "task").read_bytes()
    assert again.identity == task.identity


# --- models


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_initial_weights_are_the_architectures_own(architecture, prepared):
    from transformers import AutoConfig, AutoModelForCausalLM

    task = prepared[architecture]
    torch.manual_seed(11)
    state = torch.get_rng_state()
    model = task.build(4)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(12)
    assert same(values(task.build(4)), values(model)), "whatever the global generator does"
    assert not same(values(task.build(5)), values(model))
    torch.manual_seed(stable_seed(4, "initial weights") % 2**63)
    config = AutoConfig.for_model(vocab_size=300, **ARCHITECTURES[architecture])
    assert same(values(AutoModelForCausalLM.from_config(config)), values(model))
    assert model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert task.output(model)(torch.zeros(1, 16)).shape == (1, 300)


def test_no_token_counts_as_padding(texts):
    """OPT would neither draw nor train the embedding of token 1, here a byte like any other."""
    shape = {"hidden_size": 16, "word_embed_proj_dim": 16, "ffn_dim": 24, "num_hidden_layers": 1}
    opt = {"model_type": "opt", **shape, "num_attention_heads": 2, "max_position_embeddings": 32}
    model = TextTask.prepare(**options(texts, architecture=opt)).build(0)
    assert model.get_input_embeddings().weight.any(1).all()


@pytest.mark.parametrize(
    ("architecture", "blocks", "names", "head"),
    [
        (
            {"llama": "tied"},
            "model.layers",
            [f"self_attn.{each}_proj" for each in "qkvo"] + [f"mlp.{each}_proj" for each in ("gate", "up", "down")],
            "model.embed_tokens.weight",
        ),
        (
            {"llama": "untied"},
            "model.layers",
            [f"self_attn.{each}_proj" for each in "qkvo"] + [f"mlp.{each}_proj" for each in ("gate", "up", "down")],
            "lm_head.weight",
        ),
        (
            {"gpt2": "tied"},
            "transformer.h",
            ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"],
            "transformer.wte.weight",
        ),
    ],
)
def test_kinds(architecture, blocks, names, head, texts, tmp_path):
    ((name, tied),) = architecture.items()
    described = ARCHITECTURES[name] | {"tie_word_embeddings": tied == "tied"}
    matrices = sorted(f"{blocks}.{block}.{each}.weight" for block in range(2) for each in names)
    for changes, outputs in [({}, []), ({"include": [head]}, [head])]:
        task = TextTask.prepare(**options(texts, architecture=described, prunable=changes))
        kinds = task.kinds(task.build(0))
        assert list(kinds) == sorted([*matrices, *outputs], key=str.encode)
        assert [each for each, kind in kinds.items() if kind == "output"] == outputs
        assert set(kinds.values()) <= {"hidden", "output"}
        write_task(tmp_path / "task", "text", task)
        assert read_task(tmp_path / "task").kinds(task.build(0)) == kinds


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_masks_hold_and_ties_stay(architecture, texts):
    """The tied embedding is pruned too, and there is dropout in GPT-2."""
    head = {"llama": "model.embed_tokens.weight", "gpt2": "transformer.wte.weight"}[architecture]
    changes = {"architecture": ARCHITECTURES[architecture], "prunable": {"include": [head]}}
    task = TextTask.prepare(**options(texts, **changes))

    def follow(live):
        for name, kept in live.mask.items():
            parameter = model.get_parameter(name)
            assert not parameter[~kept].any()
            assert parameter.grad is None or not parameter.grad[~kept].any()
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight

    ended = []
    for _ in range(2):
        model = task.start(0)
        weights = dict(model.named_parameters())
        mask = levels.prune_globally(levels.magnitudes(weights), levels.dense_mask(weights, task.kinds(model)), "0.5")
        start = rewind(start_of(model), mask)
        before = evaluate(task, model, task.validation)[0]
        chosen = settings(iterations=12, batch_size=8)
        ended.append(train(model, task.train, task.loss, chosen, start, [follow], computing=CPU))
        assert evaluate(task, model, task.validation)[0] < before - 0.2
        trained = ended[-1].weights
        assert all(bool((trained[name] != start.weights[name])[kept].any()) for name, kept in mask.items())
    assert same(ended[0].weights, ended[1].weights), "bit for bit, from run to run"


# --- pretrained


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_pretrained_start_is_the_checkpoint(architecture, dtype, words, tmp_path):
    write_canonical(tiny_model(architecture, dtype), tiny_tokenizer(), tmp_path / "canonical", "here")
    wanted = tiny_model(architecture)
    with torch.no_grad():
        for parameter in wanted.parameters():
            parameter.copy_(parameter.to(dtype))
    prepared = of_checkpoint(words, tmp_path / "canonical")
    write_task(tmp_path / "task", "text", prepared)
    for task in (prepared, read_task(tmp_path / "task")):
        model = task.start(0)
        assert same(values(model), values(wanted))
        assert same(task.pretrained(), values(wanted))
        inputs = task.test.inputs[:3]
        assert torch.equal(task.logits(model.eval(), inputs), wanted(input_ids=inputs).logits[:, :-1])
        tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
        assert tied == (architecture != "llama")
    assert task.identity == prepared.identity
    # its own tokenizer: word w0 is token 3
    text = " ".join((words / f"{number}.txt").read_text() for number in range(6))
    assert {int(token) for token in task.train.inputs.unique()} <= {3 + int(word[1:]) for word in text.split()}


def test_pretrained_weights_are_not_read_before_they_are_asked_for(words, canonical_folder, tmp_path):
    write_task(tmp_path / "task", "text", of_checkpoint(words, canonical_folder("llama")))
    task = read_task(tmp_path / "task")
    assert not any(array.flags.owndata or array.flags.writeable for array in task.initial.values())
    copies = task.pretrained()
    assert not any(np.shares_memory(copies[name].numpy(), array) for name, array in task.initial.items())


def test_buffers_that_were_learned_come_along(words, tmp_path):
    """DeepSeek-V3 keeps what balances its experts in a buffer, and its choice of experts depends on it."""
    from transformers import AutoConfig

    small = {
        "vocab_size": 96,
        "hidden_size": 16,
        "intermediate_size": 24,
        "moe_intermediate_size": 8,
        "num_hidden_layers": 2,
        "first_k_dense_replace": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "n_routed_experts": 4,
        "n_group": 1,
        "topk_group": 1,
        "num_experts_per_tok": 2,
        "kv_lora_rank": 4,
        "q_lora_rank": 4,
        "qk_nope_head_dim": 4,
        "qk_rope_head_dim": 4,
        "v_head_dim": 4,
        "max_position_embeddings": 32,
    }
    model = random_model(AutoConfig.for_model("deepseek_v3", **small), 0)
    name = "model.layers.1.mlp.gate.e_score_correction_bias"
    model.get_buffer(name).copy_(torch.tensor([0.0, 5.0, 0.0, 5.0]))
    write_canonical(model, tiny_tokenizer(), tmp_path / "canonical", "here")
    prepared = of_checkpoint(words, tmp_path / "canonical")
    write_task(tmp_path / "task", "text", prepared)
    for task in (prepared, read_task(tmp_path / "task")):
        assert task.start(0).get_buffer(name).tolist() == [0, 5, 0, 5]
        assert name not in task.pretrained()


# --- bad input

BAD = {
    "both": ({"checkpoint": "somewhere"}, ["exactly one of", "architecture and checkpoint"]),
    "neither": ({"architecture": None}, ["exactly one of", "architecture and checkpoint"]),
    "no model type": ({"architecture": {"hidden_size": 8}}, ["architecture.model_type is None", "llama"]),
    "unknown model type": ({"architecture": {"model_type": "zork"}}, ["architecture.model_type is 'zork'"]),
    "misspelt": (
        {"architecture": TINY_LLAMA | {"hiden_size": 8}},
        ["architecture.hiden_size", "llama", " hidden_size"],
    ),
    "own vocabulary size": ({"architecture": TINY_LLAMA | {"vocab_size": 9}}, ["vocab_size", "set vocabulary"]),
    "wrong type": ({"architecture": TINY_LLAMA | {"hidden_size": "big"}}, ["llama configuration", "hidden_size"]),
    "does not fit itself": (
        {"architecture": TINY_GPT2 | {"n_head": 3}},
        ["the model does not run on this text", "divisible"],
    ),
    "longer than the model reads": ({"sequence_length": 33}, ["sequence_length is 33", "at most 32"]),
    "one token": ({"sequence_length": 1}, ["sequences of 1 tokens", "2 tokens or more"]),
    "too small a vocabulary": ({"vocabulary": 255}, ["vocabulary is 255", "256"]),
    "too large a vocabulary": ({"vocabulary": 20000}, ["vocabulary is 20000", "give only", "more text"]),
    "no test": ({"test": 0}, ["test is 0", "above 0 and below 1"]),
    "all validation": ({"validation": "1.0"}, ["validation is 1.0", "above 0 and below 1"]),
    "nothing to train on": ({"validation": 0.5, "test": 0.5}, ["20 documents", "none to train on"]),
    "one document": ({"files": "00.txt"}, ["1 documents", "none to train on", "split the text"]),
    "no text": ({"source": "nowhere"}, ["'nowhere' does not exist"]),
    "no weight": ({"prunable": {"exclude": ["*"]}}, ["prunable", "no weights of LlamaForCausalLM are selected"]),
    "no such checkpoint": ({"architecture": None, "checkpoint": "/nowhere"}, ["/nowhere/manifest.json: no such file"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(case, texts):
    changes, expected = BAD[case]
    with pytest.raises(UserError) as caught:
        TextTask.prepare(**options(texts, **changes))
    message = str(caught.value)
    assert "\n" not in message
    assert [word for word in expected if word not in message] == [], message
    assert message.startswith(("imp.mine.task: ", "prunable: ")), message


def test_a_part_without_a_window_is_named(tmp_path):
    for number in range(6):
        (tmp_path / f"{number}.txt").write_text("the same words " * 50 if number else "short")
    chosen = next(
        seed for seed in range(100) if np.random.default_rng(stable_seed(seed, "split")).permutation(6)[0] == 0
    )
    with pytest.raises(UserError, match=r"imp.mine.task: test documents: its .* fewer than one sequence of 16"):
        TextTask.prepare(**options(tmp_path, split_seed=chosen, vocabulary=260))


def test_tokens_beyond_the_model_are_refused(words, tmp_path):
    from transformers import AutoConfig

    small = TINY_LLAMA | {"vocab_size": 50, "model_type": "llama"}
    write_canonical(random_model(AutoConfig.for_model(**small), 0), tiny_tokenizer(), tmp_path / "canonical", "here")
    with pytest.raises(
        UserError, match=r"imp.mine.task: the tokenizer produces token \d\d; .* embeddings for 50 tokens"
    ):
        of_checkpoint(words, tmp_path / "canonical")


def test_damaged_checkpoints_are_refused(words, canonical_folder, tmp_path):
    for path in canonical_folder("llama").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    for name in ("tokenizer.json", "manifest.json", "model.safetensors", "config.json"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(UserError) as caught:
            of_checkpoint(words, tmp_path)
        assert str(tmp_path) in str(caught.value)
        assert "\n" not in str(caught.value)
        (tmp_path / name).write_bytes(whole)
    assert of_checkpoint(words, tmp_path).pretrained()


def test_vocabularies_of_the_same_documents_are_the_same():
    documents = [Document(str(number), f"abc abd {'xy' * number} ") for number in range(30)]
    assert len({train_tokenizer(documents, 262, "key").to_str() for _ in range(3)}) == 1
