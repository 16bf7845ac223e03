"""Every fast tokenizer that transformers has: a canonical folder, and a ticket, tokenise as the source does."""

import inspect
import json
from collections.abc import Iterator

import pytest
import transformers
from structured import make
from tiny import tiny_model
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES
from transformers.tokenization_utils_tokenizers import TokenizersBackend

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.filenames import CONFIG, TOKENIZER
from ltpipe.checkpoints.load import load_checkpoint
from ltpipe.checkpoints.tokenizer import read_tokenizer as read_source
from ltpipe.checkpoints.tokenizer import write_tokenizer
from ltpipe.data.sequences import read_tokenizer
from ltpipe.exporting.formats import export_ticket
from ltpipe.runtime.sources import Source

LINES = [
    "Hello, world! It's 1984, isn't it?",
    "two lines and tabs under the table",
    "the cat sat on the mat",
    "aaa bb c",
]
TEXTS = [
    "",
    " ",
    "the cat",
    " the cat",
    "   the  cat sat ",
    "Hello, WORLD! isn't 12345 it?",
    "two\nlines\n\n and\ttabs",
    "<s>the</s> [CLS] cat<unk> sat <pad>",
    "caf\u00e9 cafe\u0301 \u4f60\u597d \U0001f600",
]
TEMPLATE = "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}</s>\n{% endfor %}"
CHAT = [{"role": "user", "content": "the cat "}, {"role": "assistant", "content": " sat"}]
SPECIAL = ["<s>", "</s>", "<unk>", "<pad>", "<mask>", "[CLS]", "[SEP]", "[UNK]", "[PAD]", "[MASK]", "<|endoftext|>"]
OPTIONS: dict[str, tuple] = {
    "add_prefix_space": (True, False),
    "legacy": (True, False),
    "add_bos_token": (True, False),
    "add_eos_token": (True,),
    "do_lower_case": (True, False),
    "split_special_tokens": (True,),
}
"""What changes encodings; each value is tried where a class takes it."""

ASIDE = {
    "LayoutLMv2Tokenizer",
    "LayoutLMv3Tokenizer",
    "LayoutLMv3TokenizerFast",
    "LayoutXLMTokenizer",
    "LukeTokenizer",
    "MarkupLMTokenizer",
    "MarkupLMTokenizerFast",
    "MLukeTokenizer",
    "RoFormerTokenizer",
    "RoFormerTokenizerFast",
    "SeamlessM4TTokenizer",
    "UdopTokenizer",
}
"""Tokenizers of pages, entities, Chinese words and pairs of languages: of no causal model of text."""


def classes() -> list[type]:
    names = (name for name in dir(transformers) if name.endswith(("Tokenizer", "TokenizerFast")))
    found = {getattr(transformers, name) for name in names if name not in ASIDE}
    fast = (each for each in found if isinstance(each, type) and issubclass(each, TokenizersBackend))
    return sorted(fast, key=lambda each: each.__name__)


def trained(kind: str) -> dict[str, object]:
    """A small vocabulary, as a class takes it."""
    if kind == "Unigram":
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=120, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False
        )
        tokenizer.train_from_iterator(LINES, trainer)
        return {"vocab": [tuple(entry) for entry in json.loads(tokenizer.to_str())["model"]["vocab"]]}
    if kind in ("WordPiece", "WordLevel"):
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(vocab_size=120, special_tokens=SPECIAL, show_progress=False)
        tokenizer.train_from_iterator(LINES, trainer)
        return {"vocab": tokenizer.get_vocab()}
    tokenizer = Tokenizer(models.BPE())
    byte_level = kind == "bytes"
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel() if byte_level else pre_tokenizers.Metaspace()
    alphabet = pre_tokenizers.ByteLevel.alphabet() if byte_level else []
    trainer = trainers.BpeTrainer(
        vocab_size=400 if byte_level else 150, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(LINES, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return {"vocab": model["vocab"], "merges": [tuple(merge) for merge in model["merges"]]}


def kinds(tokenizer_class: type) -> list[str]:
    name = getattr(tokenizer_class.model, "__name__", None)
    return ["bytes", "words"] if name == "BPE" else [name or "bytes"]


def settings(tokenizer_class: type) -> Iterator[dict[str, object]]:
    taken = inspect.signature(tokenizer_class.__init__).parameters
    yield {}
    for name, values in OPTIONS.items():
        if name in taken or name in ("add_prefix_space", "split_special_tokens"):
            yield from ({name: value} for value in values)


def made(tokenizer_class: type, kind: str, options: dict[str, object]) -> TokenizersBackend | None:
    """A tokenizer, or None where a class cannot be made of such a vocabulary."""
    try:
        if tokenizer_class is TokenizersBackend:
            backend = Tokenizer(models.BPE(**trained(kind)))
            backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            return tokenizer_class(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", **options)
        return tokenizer_class(**trained(kind), **options)
    except Exception:
        return None


def model_type(tokenizer_class: type) -> str:
    """A type of model that the class belongs to: some types have their class whatever a folder says."""
    name = tokenizer_class.__name__.removesuffix("Fast")
    owners = [kind for kind, known in TOKENIZER_MAPPING_NAMES.items() if known and known.removesuffix("Fast") == name]
    return next((kind for kind in owners if kind in transformers.CONFIG_MAPPING), "llama")


def encodings(tokenizer: TokenizersBackend) -> list[object]:
    found = [tokenizer(text, add_special_tokens=added)["input_ids"] for text in TEXTS for added in (True, False)]
    return [*found, tokenizer.apply_chat_template(CHAT, tokenize=True, return_dict=False)]


CLASSES = classes()


def test_most_classes_can_be_made():
    """What cannot be made of a small vocabulary is not tried below: let that be few."""
    failing = [each.__name__ for each in CLASSES if not any(made(each, kind, {}) for kind in kinds(each))]
    assert len(failing) <= 4, failing
    assert len(CLASSES) > 50


@pytest.mark.parametrize("tokenizer_class", CLASSES, ids=lambda each: each.__name__)
def test_reads_back_as_it_was(tokenizer_class, tmp_path, caplog):
    """With every option that changes an encoding, and as the tokenizer of a model that transformers knows it for."""
    for kind in kinds(tokenizer_class):
        for number, options in enumerate(settings(tokenizer_class)):
            tokenizer = made(tokenizer_class, kind, options)
            if tokenizer is None:
                continue
            tokenizer.chat_template = TEMPLATE
            source, folder = tmp_path / f"{kind}-{number}-source", tmp_path / f"{kind}-{number}"
            tokenizer.save_pretrained(source)
            folder.mkdir()
            for place in (source, folder):
                (place / CONFIG).write_text(json.dumps({"model_type": model_type(tokenizer_class)}))
            live = read_source(source, "key")
            write_tokenizer(live, folder)
            again = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            assert encodings(again) == encodings(live), (kind, options)
            ours = read_tokenizer(folder / TOKENIZER)
            for text in TEXTS:
                assert ours.encode(text).ids == live(text)["input_ids"], (kind, options, text)
    assert "encodes differently" not in caplog.text


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [("LlamaTokenizer", "words", {"legacy": False}), ("GPT2Tokenizer", "bytes", {"add_prefix_space": True})],
)
def test_an_exported_ticket_tokenises_as_its_source(name, kind, options, tmp_path):
    tokenizer = made(getattr(transformers, name), kind, options)
    tokenizer.chat_template = TEMPLATE
    tiny_model("llama").save_pretrained(tmp_path / "source")
    tokenizer.save_pretrained(tmp_path / "source")
    load_checkpoint(Source(str(tmp_path / "source")), None, "auto", tmp_path / "canonical")
    mask = make(tmp_path / "canonical", "layer", "0.5", tmp_path / "mask.safetensors")
    export_ticket("hf", mask, Checkpoint.open(tmp_path / "canonical"), tmp_path / "ticket")
    source, ticket = (AutoTokenizer.from_pretrained(tmp_path / place) for place in ("source", "ticket"))
    assert encodings(ticket) == encodings(source)
