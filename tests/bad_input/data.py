"""Texts, tokenizers and images that cannot be read."""

import gzip
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
from bad_input.case import Case
from bad_input.study import Study
from sealed import copied

from ltpipe.checkpoints.filenames import MANIFEST, TOKENIZER
from ltpipe.runtime.files import sha256_of

READ = "--tokenizer @llama/tokenizer.json --sequence-length 16 --name mine --source "
IMAGES = {"model": "lenet-300-100", "validation": 1, "test": 1, "split_seed": 0}


def file(name: str, content: bytes) -> Callable[[Path, Study], object]:
    return lambda here, study: (here / name).write_bytes(content)


def text(name: str, content: bytes, *words: str) -> Case:
    return Case("sequences", READ + f"%{name}", words, file(name, content))


def table(columns: dict[str, list], *words: str, arguments: str = "") -> Case:
    def make(here: Path, _: Study) -> None:
        pyarrow.parquet.write_table(pyarrow.table(columns), here / "t.parquet")

    return Case("sequences", READ + f"%t.parquet {arguments}", words, make)


def tokenizer(content: bytes, *words: str) -> Case:
    arguments = "--source @text.txt --sequence-length 16 --tokenizer %tokenizer.json"
    return Case("sequences", arguments, ("%tokenizer.json: ", *words), beside_manifest(content))


def beside_manifest(content: bytes) -> Callable[[Path, Study], object]:
    """A tokenizer that the manifest beside it knows."""

    def make(here: Path, study: Study) -> None:
        (here / TOKENIZER).write_bytes(content)
        copied(study / "llama" / MANIFEST, here / MANIFEST, files={TOKENIZER: sha256_of(here / TOKENIZER)})

    return make


def tokenizer_of(make: Callable[[Path], object]) -> Callable[[Path, Study], object]:
    """Something in place of a tokenizer."""

    def made(here: Path, study: Study) -> None:
        copied(study / "llama" / MANIFEST, here / MANIFEST)
        make(here / TOKENIZER)

    return made


def images(content: bytes, *words: str, name: str = "images.csv", **options: object) -> Case:
    given = json.dumps({**IMAGES, "source": f"%{name}", **options})
    return Case("task", f"--task images --training s --options '{given}'", words, file(name, content))


def at(make: Callable[[Path], object], name: str) -> Callable[[Path, Study], object]:
    return lambda here, study: make(here / name)


def folder_of_pipes(here: Path, study: Study) -> None:
    (here / "texts").mkdir()
    os.mkfifo(here / "texts" / "pipe.txt")


def idx(shape: tuple[int, ...], size: int, kind: int = 8) -> bytes:
    return bytes([0, 0, kind, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + bytes(size)


def idx_folder(pixels: bytes, labels: bytes) -> Callable[[Path, Study], None]:
    def make(here: Path, _: Study) -> None:
        (here / "digits").mkdir()
        for part in ("train", "t10k"):
            (here / "digits" / f"{part}-images-idx3-ubyte").write_bytes(pixels)
            (here / "digits" / f"{part}-labels-idx1-ubyte").write_bytes(labels)

    return make


def digits(pixels: bytes, labels: bytes, *words: str) -> Case:
    given = json.dumps({**IMAGES, "source": "%digits", "test": 0})
    return Case("task", f"--task images --options '{given}'", words, idx_folder(pixels, labels))


ROW = b",".join([b"0"] * 9) + b",1\n"

DATA = {
    "text-utf16": text("t.txt", "w1 w2".encode("utf-16"), "%t.txt: not UTF-8", "convert it to UTF-8"),
    "text-utf32": text("t.txt", "w1 w2".encode("utf-32"), "%t.txt: not UTF-8"),
    "text-latin-1": text("t.txt", "w1 ä".encode("latin-1"), "%t.txt: not UTF-8 (byte 3)"),
    "text-of-surrogates": text("t.txt", b"w1 \xed\xa0\x80", "%t.txt: not UTF-8"),
    "text-empty": text("t.txt", b"", "data.mine.source: no text"),
    "text-of-a-bom-alone": text("t.txt", b"\xef\xbb\xbf", "data.mine"),
    "text-of-blanks": text("t.txt", b" \n\t " * 99, "data.mine.source: no text"),
    "text-of-nul-bytes": text("t.txt", bytes(1000), "data.mine: ", "fewer than one sequence"),
    "text-of-one-word": text("t.txt", b"w1", "data.mine: ", "fewer than one sequence of 16"),
    "text-is-a-fifo": Case("sequences", READ + "%t.txt", ("'%t.txt' does not exist",), at(os.mkfifo, "t.txt")),
    "text-is-a-device": Case("sequences", READ + "/dev/zero", ("'/dev/zero' does not exist",)),
    "text-is-a-symlink-loop": Case(
        "sequences", READ + "%t.txt", ("'%t.txt' does not exist",), at(lambda p: p.symlink_to(p.name), "t.txt")
    ),
    "texts-are-pipes": Case(
        "sequences",
        READ + "%texts",
        ("no .txt, .jsonl, .json (each also with .gz) or .parquet file",),
        folder_of_pipes,
    ),
    "text-of-another-suffix": text("t.docx", b"PK\3\4", "'%t.docx' is not a text"),
    "files-above-the-folder": Case(
        "sequences", READ + "%texts --files ../*.txt", ("'../*.txt'", "%texts"), at(Path.mkdir, "texts")
    ),
    "files-of-an-absolute-path": Case(
        "sequences", READ + "%texts --files /etc/*", ("'/etc/*' is not a pattern",), at(Path.mkdir, "texts")
    ),
    "json-array-cut-off": text("t.json", b'[{"text": "w1"}', "%t.json: starts like a JSON array"),
    "json-array-of-numbers": text("t.json", b"[1, 2]", "%t.json: entry 1 is not a JSON object"),
    "gzip-of-text": text("t.jsonl.gz", b'{"text": "w1"}\n', "%t.jsonl.gz: cannot be read or unpacked"),
    "messages-without-a-template": text(
        "t.jsonl", b'{"text": [{"role": "user", "content": "w1"}]}\n', "%t.jsonl: line 1", "no chat template"
    ),
    "messages-of-numbers": text("t.jsonl", b'{"text": [1, 2]}\n', "%t.jsonl: line 1", "not of messages"),
    "jsonl-not-json": text("t.jsonl", b'{"text": "w1"}\nw2\n', "%t.jsonl: line 2 is not a JSON object"),
    "jsonl-of-another-key": text("t.jsonl", b'{"txt": "w1"}\n', "%t.jsonl: line 1", "'text'"),
    "jsonl-of-a-number": text("t.jsonl", b'{"text": 1}\n', "%t.jsonl: line 1", "int", "expected a string"),
    "jsonl-of-null": text("t.jsonl", b'{"text": null}\n', "%t.jsonl: line 1", "expected a string"),
    "jsonl-of-lists": text("t.jsonl", b'["text"]\n', "%t.jsonl: line 1 is not a JSON object"),
    "jsonl-of-half-a-surrogate": text("t.jsonl", b'{"text": "\\ud800"}\n', "half a surrogate"),
    "jsonl-nested-deeply": text("t.jsonl", b"[" * 100_000 + b"\n", "%t.jsonl: line 1 is not a JSON object"),
    "jsonl-of-a-huge-number": text("t.jsonl", b'{"text": ' + b"9" * 5000 + b"}\n", "%t.jsonl: line 1"),
    "jsonl-of-a-key-twice": text("t.jsonl", b'{"text": "w1", "text": "w2"}\n', "%t.jsonl: line 1", "'text'"),
    "jsonl-of-a-bom": text("t.jsonl", b'\xef\xbb\xbf{"text": "w1"}\n', "%t.jsonl: line 1"),
    "jsonl-utf16": text("t.jsonl", '{"text": "w1"}\n'.encode("utf-16"), "%t.jsonl: not UTF-8"),
    "jsonl-of-nul-bytes": text("t.jsonl", bytes(100), "%t.jsonl: line 1"),
    "parquet-of-text": text("t.parquet", b"w1 w2\n", "%t.parquet: not a readable parquet file"),
    "parquet-empty": text("t.parquet", b"", "%t.parquet: not a readable parquet file"),
    "parquet-truncated": Case(
        "sequences",
        READ + "%t.parquet",
        ("%t.parquet: not a readable parquet file",),
        lambda here, study: (
            pyarrow.parquet.write_table(pyarrow.table({"text": ["w1"] * 99}), here / "t.parquet"),
            os.truncate(here / "t.parquet", 200),
        ),
    ),
    "parquet-of-other-columns": table({"txt": ["w1"]}, "%t.parquet: no column 'text'; set the text's key field to one"),
    "parquet-of-numbers": table({"text": [1, 2]}, "%t.parquet: column 'text' holds int64", "expected strings"),
    "parquet-of-lists": table({"text": [["w1"], ["w2"]]}, "%t.parquet: column 'text' holds list"),
    "parquet-of-bytes": table({"text": [b"\xff"]}, "%t.parquet: column 'text' holds binary"),
    "parquet-without-rows": table({"text": pyarrow.array([], pyarrow.string())}, "data.mine.source: no text"),
    "parquet-of-nulls": table({"text": pyarrow.array([None, None], pyarrow.string())}, "data.mine.source: no text"),
    "tokenizer-file-of-code": tokenizer(b"import os", "not a readable tokenizer.json"),
    "tokenizer-file-empty": tokenizer(b"", "not a readable tokenizer.json"),
    "tokenizer-file-utf16": tokenizer("{}".encode("utf-16"), "not a readable tokenizer.json"),
    "tokenizer-file-of-nothing": tokenizer(b"{}", "not a readable tokenizer.json"),
    "tokenizer-file-nested-deeply": tokenizer(b"[" * 100_000, "not a readable tokenizer.json"),
    "tokenizer-file-is-a-fifo": Case(
        "sequences",
        "--source @text.txt --sequence-length 16 --tokenizer %tokenizer.json",
        ("%tokenizer.json: is a pipe, a device",),
        tokenizer_of(os.mkfifo),
    ),
    "tokenizer-file-is-a-folder": Case(
        "sequences",
        "--source @text.txt --sequence-length 16 --tokenizer %tokenizer.json",
        ("%tokenizer.json: is a folder",),
        tokenizer_of(Path.mkdir),
    ),
    "images-of-text": images(b"a,b,c\n", "%images.csv: not a table of whole numbers"),
    "images-empty": images(b"", "%images.csv: not a table", "every line is empty"),
    "images-of-nan": images(b"nan" + ROW[1:], "%images.csv: not a table of whole numbers"),
    "images-negative": images(b"-1" + ROW[1:], "%images.csv: not a table of whole numbers"),
    "images-above-255": images(b"256" + ROW[1:], "%images.csv: not a table of whole numbers"),
    "images-of-fractions": images(b"0.5" + ROW[1:], "%images.csv: not a table of whole numbers"),
    "images-ragged": images(ROW + b"1,2\n", "%images.csv: not a table of whole numbers"),
    "images-not-square": images(ROW[2:] * 9, "%images.csv: 9 columns", "square"),
    "images-utf16": images(ROW.decode().encode("utf-16"), "%images.csv: not a table of whole numbers"),
    "images-of-unicode-digits": images("٣".encode() + ROW[1:], "%images.csv: not a table of whole numbers"),
    "images-of-one": images(ROW, "imp.s.task.source: '%images.csv' has 1 images"),
    "images-not-gzip": images(ROW, "%images.csv.gz: cannot be read or unpacked", name="images.csv.gz"),
    "images-gzip-truncated": images(
        gzip.compress(ROW * 99)[:40], "%images.csv.gz: cannot be read or unpacked", name="images.csv.gz"
    ),
    "images-are-a-fifo": Case(
        "task",
        "--task images --options '" + json.dumps({**IMAGES, "source": "%i.csv"}) + "'",
        ("'%i.csv' does not exist",),
        at(os.mkfifo, "i.csv"),
    ),
    "images-from-the-hub": images(b"", "hub:me/digits", source="hub:me/digits"),
    "idx-of-floats": digits(idx((9, 3, 3), 81, 0x0D), idx((9,), 9), "%digits/train-images-idx3-ubyte: not an idx file"),
    "idx-truncated": digits(idx((9, 3, 3), 80), idx((9,), 9), "do not match its header"),
    "idx-of-exabytes": digits(idx((2**32 - 1,) * 3, 9), idx((9,), 9), "do not match its header"),
    "idx-of-no-dimensions": digits(idx((), 1), idx((9,), 9), "%digits/train-images-idx3-ubyte: "),
    "idx-of-fewer-labels": digits(idx((9, 3, 3), 81), idx((8,), 8), "do not fit labels"),
    "idx-without-images": digits(idx((0, 3, 3), 0), idx((0,), 0), "do not fit labels"),
    "idx-folder-empty": Case(
        "task",
        "--task images --options '" + json.dumps({**IMAGES, "source": "%digits", "test": 0}) + "'",
        ("%digits: has no such file", "exactly one of"),
        at(Path.mkdir, "digits"),
    ),
}
