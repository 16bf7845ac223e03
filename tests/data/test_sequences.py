"""Token sequences: against windows cut by hand, evenly spread, and round trips on disk."""

from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from sealed import parts, sealed
from tiny import tiny_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from ltpipe.checkpoints.tensorwriter import TensorData, write_tensors
from ltpipe.data.documents import Document
from ltpipe.data.sequences import TokenSequences, cut_sequences
from ltpipe.runtime.errors import DamagedFileError, UserError

KEY = "data.mine"


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of one token a letter, its code point; it would frame a text in special tokens if it were let."""
    vocabulary = {chr(code): code for code in range(256)} | {"<s>": 256, "</s>": 257}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 256), ("</s>", 257)]
    )
    path = tmp_path_factory.mktemp("letters") / "tokenizer.json"
    tokenizer.save(str(path))
    assert tokenizer.encode("ab").ids == [256, 97, 98, 257]
    return path


def cut(texts: list[str], tokenizer: Path, length: int, count: int | None = None, separator: str = "|"):
    documents = [Document(str(number), text) for number, text in enumerate(texts)]
    return cut_sequences(documents, tokenizer, length, count, separator, KEY, bos="never")


def by_hand(texts: list[str], length: int, count: int | None, separator: str) -> list[list[int]]:
    """Each document, then the separator; windows from the start; the n-th of m at n * available // m."""
    tokens = [ord(letter) for letter in "".join(text + separator for text in texts)]
    windows = [tokens[start : start + length] for start in range(0, len(tokens) - length + 1, length)]
    wanted = len(windows) if count is None else count
    return [windows[number * len(windows) // wanted] for number in range(wanted)]


TEXTS = st.lists(st.text("abc é\n", max_size=40), min_size=1, max_size=5)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), texts=TEXTS, length=st.integers(2, 9), separator=st.sampled_from(["", "|", "\n\n"]))
def test_equals_windows_cut_by_hand(data, texts, length, separator, letters):
    available = len("".join(text + separator for text in texts)) // length
    if available == 0:
        with pytest.raises(UserError, match="fewer than one sequence"):
            cut(texts, letters, length, separator=separator)
        return
    count = data.draw(st.none() | st.integers(1, available))
    sequences = cut(texts, letters, length, count, separator)
    assert sequences.input_ids.tolist() == by_hand(texts, length, count, separator)
    assert sequences.input_ids.dtype == np.int32
    assert sequences.input_ids.flags.c_contiguous
    assert (sequences.available, sequences.documents) == (available, len(texts))
    assert sequences.tokenizer == sha256(letters.read_bytes()).hexdigest()


@pytest.mark.parametrize(("available", "count"), [(100, 7), (100, 100), (17, 16), (16, 1), (1000, 999), (5, 3)])
def test_chosen_at_even_distances(available, count, letters):
    """The first window is in, none is there twice, and distances differ by one at most: the text's end counts too."""
    text = "".join(chr(number // 200) + chr(number % 200) for number in range(available))
    chosen = [first * 200 + second for first, second in cut([text], letters, 2, count, "").input_ids.tolist()]
    assert len(set(chosen)) == count
    assert chosen[0] == 0
    steps = {later - earlier for earlier, later in pairwise([*chosen, available])}
    assert max(steps) - min(steps) <= 1


def test_each_document_is_tokenised_by_itself(tmp_path):
    """No token spans two documents, and the separator belongs to the one before it."""
    vocabulary = {letter: code for code, letter in enumerate("ab|")} | {"ab": 3, "a|": 4}
    Tokenizer(models.BPE(vocabulary, [("a", "b"), ("a", "|")])).save(str(tmp_path / "tokenizer.json"))
    assert cut(["a", "b"], tmp_path / "tokenizer.json", 2, separator="").input_ids.tolist() == [[0, 1]]
    assert cut(["ab", "a"], tmp_path / "tokenizer.json", 3, separator="|").input_ids.tolist() == [[3, 2, 4]]


def test_words_of_the_tiny_tokenizer(tmp_path):
    tiny_tokenizer().save_pretrained(tmp_path)
    words = [f"w{number}" for number in range(20)]
    sequences = cut([" ".join(words), "zork w5"], tmp_path / "tokenizer.json", 4, 3, " ")
    # w0 is 3, an unknown word 2; 22 tokens are 5 windows, of which 0, 5 // 3 and 10 // 3 are taken
    assert sequences.input_ids.tolist() == [[3, 4, 5, 6], [7, 8, 9, 10], [15, 16, 17, 18]]
    assert (sequences.available, sequences.documents) == (5, 2)


@pytest.mark.parametrize(
    ("texts", "length", "count", "words"),
    [
        (["abcdef"], 8, None, (f"{KEY}: ", "7 tokens", "one sequence of 8", "sequence_length")),
        (["abcdef"], 8, 1, (f"{KEY}: ", "7 tokens", "one sequence of 8")),
        (["abcdef", ""], 9, 3, (f"{KEY}: ", "8 tokens", "one sequence of 9")),
        (["abcdef", "xyz"], 5, 3, (f"{KEY}: ", "2 sequences of 5 tokens", "3 are asked for")),
        (["abcdef"], 0, None, (f"{KEY}: ", "all sequences of 0 tokens", "use")),
        (["abcdef"], 1, None, (f"{KEY}: ", "of 1 tokens", "use sequences of 2 tokens")),
        (["abcdef"], -2, 1, (f"{KEY}: ", "of -2 tokens", "use")),
        (["abcdef"], 2, 0, (f"{KEY}: ", "0 sequences of 2 tokens", "use")),
        (["abcdef"], 2, -1, (f"{KEY}: ", "-1 sequences of 2 tokens", "use")),
    ],
)
def test_refused(texts, length, count, words, letters):
    with pytest.raises(UserError) as caught:
        cut(texts, letters, length, count)
    message = str(caught.value)
    assert "\n" not in message
    assert [word for word in words if word not in message] == [], message


@pytest.mark.parametrize(("count", "separator"), [(3, "\n\n"), (None, " ")])
def test_the_published_protocol_leaves_nothing_to_choose(count, separator, letters):
    with pytest.raises(UserError, match=f"^{KEY}: protocol wikitext2 joins documents with two newlines"):
        cut_sequences([Document("0", "abcdef")], letters, 2, count, separator, KEY, "wikitext2")


def test_truncation_and_padding_of_the_tokenizer_file_are_left_out(letters, tmp_path):
    tokenizer = Tokenizer.from_file(str(letters))
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert (
        cut(["abcdef"], tmp_path / "tokenizer.json", 7).input_ids.tolist()
        == cut(["abcdef"], letters, 7).input_ids.tolist()
    )


@pytest.mark.parametrize("content", [None, "", "{", '{"model": 1}', "w1 w2"])
def test_unreadable_tokenizer(content, tmp_path):
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=r"tokenizer\.json") as caught:
        cut(["abcdef"], path, 2)
    assert str(path) in str(caught.value)


# --- beginnings

START, END = 256, 257


@pytest.mark.parametrize(
    ("protocol", "bos", "said", "windows"),
    [
        ("documents", "auto", "each window", [[START, 97, 98], [START, 99, 10], [START, 10, 100], [START, 101, 102]]),
        ("documents", "each window", "each window", [[START, 97, 98], [START, 99, 10], [START, 10, 100]]),
        ("documents", "never", "never", [[97, 98, 99], [10, 10, 100], [101, 102, 10]]),
        ("wikitext2", "auto", "first window", [[START, 97, 98], [99, 10, 10], [100, 101, 102]]),
        ("wikitext2", "each window", "each window", [[START, 97, 98], [START, 99, 10], [START, 10, 100]]),
        ("wikitext2", "never", "never", [[97, 98, 99], [10, 10, 100]]),
    ],
)
def test_windows_begin_as_the_tokenizer_begins_a_text(protocol, bos, said, windows, letters, tmp_path):
    documents = [Document("0", "abc"), Document("1", "def")]
    cut_sequences(documents, letters, 3, None, "\n\n", KEY, protocol, bos).write(tmp_path / "sequences")
    found = TokenSequences.read(tmp_path / "sequences")
    assert found.input_ids.tolist()[: len(windows)] == windows
    assert found.bos == said
    if protocol == "documents":
        some = cut_sequences(documents, letters, 3, 2, "\n\n", KEY, protocol, bos)
        assert some.input_ids.tolist() == found.input_ids[[0, found.available // 2]].tolist()
        assert some.available == found.available


def test_a_tokenizer_that_begins_no_text(letters, tmp_path):
    """GPT-2 and SmolLM2 are such: nothing by itself, its BOS where it is asked for."""
    plain = Tokenizer.from_file(str(letters))
    plain.post_processor = processors.ByteLevel()
    plain.save(str(tmp_path / "tokenizer.json"))
    documents = [Document("0", "abcdef")]
    auto = cut_sequences(documents, tmp_path / "tokenizer.json", 3, None, "", KEY)
    assert (auto.bos, auto.input_ids.tolist()) == ("never", [[97, 98, 99], [100, 101, 102]])
    with pytest.raises(UserError, match="no BOS token"):
        cut_sequences(documents, tmp_path / "tokenizer.json", 3, None, "", KEY, bos="each window")
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": "<s>"}')
    each = cut_sequences(documents, tmp_path / "tokenizer.json", 3, None, "", KEY, bos="each window")
    assert each.input_ids.tolist() == [[START, 97, 98], [START, 99, 100], [START, 101, 102]]


@pytest.mark.parametrize(
    ("name", "begins", "model_type", "said"),
    [
        ("LlamaTokenizer", True, "llama", "each window"),
        ("LlamaTokenizer", False, "llama", "never"),
        ("GemmaTokenizer", True, "gemma2", "each window"),
        ("GemmaTokenizer", False, "gemma3_text", "each window"),  # some say that their chat template begins the text
    ],
)
def test_families_that_need_a_beginning(name, begins, model_type, said, tmp_path):
    """Without it Gemma has perplexities in the millions."""
    import transformers

    words = {word: number for number, word in enumerate(["<pad>", "<eos>", "<bos>", "<unk>", "\u2581", "a", "b"])}
    options = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "add_bos_token": begins}
    tokenizer = getattr(transformers, name)(vocab=words, merges=[], **options)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(f'{{"model_type": "{model_type}"}}')
    sequences = cut_sequences([Document("0", "a b a b a b")], tmp_path / "tokenizer.json", 4, None, "", KEY)
    assert sequences.bos == said
    assert (sequences.input_ids[:, 0] == words["<bos>"]).all() == (said == "each window")
    assert (sequences.input_ids[:, 1:] != words["<bos>"]).all()


def test_documents_are_read_one_at_a_time(letters):
    """Twice, and never two of them at once but those that are tokenised together."""
    read = []

    class Once:
        def __iter__(self):
            read.append(0)
            for number in range(50):
                read[-1] += 1
                yield Document(str(number), chr(97 + number % 26) * (number + 1))

    whole = cut_sequences(list(Once()), letters, 5, None, "|", KEY)
    some = cut_sequences(Once(), letters, 5, 7, "|", KEY)
    assert read == [50, 50, 50]
    assert some.documents == 50
    chosen = np.arange(7) * whole.available // 7
    np.testing.assert_array_equal(some.input_ids, whole.input_ids[chosen])


def test_files_that_change_while_they_are_read(letters):
    class Changing:
        rounds = 0

        def __iter__(self):
            self.rounds += 1
            yield Document("0", "abcdef" * self.rounds)

    with pytest.raises(UserError, match="changed while they were read"):
        cut_sequences(Changing(), letters, 2, 1, "", KEY)


# --- on disk

SEQUENCES = TokenSequences(np.array([[1, 2, 70000], [4, 5, 2**31 - 1]], np.int32), 17, 3, "ab" * 32)


def test_round_trip(tmp_path):
    SEQUENCES.write(tmp_path / "first")
    again = TokenSequences.read(tmp_path / "first")
    assert again.input_ids.dtype == np.int32
    np.testing.assert_array_equal(again.input_ids, SEQUENCES.input_ids)
    assert (again.available, again.documents, again.tokenizer) == (17, 3, "ab" * 32)
    again.write(tmp_path / "second")
    assert (tmp_path / "second").read_bytes() == (tmp_path / "first").read_bytes()
    official = safetensors.numpy.load_file(tmp_path / "first")
    assert official.keys() == {"input_ids"}
    np.testing.assert_array_equal(official["input_ids"], SEQUENCES.input_ids)


@pytest.mark.parametrize(
    ("metadata", "what"),
    [
        (None, "another safetensors file, with 1 tensors"),
        ({"kind": "mask", "format": "1"}, "not a set of token sequences but a mask"),
        ({"kind": "set of token sequences", "format": "2"}, "in format 2, but this version of ltpipe reads 3"),
        ({"kind": "set of token sequences"}, "in format None, but this version of ltpipe reads 3"),
        ({"format": "1"}, "another safetensors file"),
    ],
)
def test_another_file(metadata, what, tmp_path):
    path = tmp_path / "other.safetensors"
    write_tensors(path, [TensorData.of("input_ids", SEQUENCES.input_ids)], metadata)
    with pytest.raises(DamagedFileError, match=what) as caught:
        TokenSequences.read(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_damaged(tmp_path):
    path = tmp_path / "sequences.safetensors"
    SEQUENCES.write(path)
    whole = path.read_bytes()
    for kept in (0, 7, 50, len(whole) - 1):
        path.write_bytes(whole[:kept])
        with pytest.raises(DamagedFileError, match=r"sequences\.safetensors"):
            TokenSequences.read(path)
    header, payload = parts(whole)
    header["inpux_ids"] = header.pop("input_ids")
    path.write_bytes(sealed(header, payload))
    with pytest.raises(DamagedFileError, match="has no tensor 'input_ids'"):
        TokenSequences.read(path)
    path.unlink()
    with pytest.raises(UserError, match="no such file"):
        TokenSequences.read(path)
