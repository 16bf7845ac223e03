"""Texts as named documents, whatever they are stored in."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np

from ltpipe.runtime.determinism import stable_seed
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.jsonfiles import read_object
from ltpipe.runtime.sources import Source

SUFFIXES = (".txt", ".jsonl", ".parquet")
Part = Literal["all", "evaluation", "calibration"]
JOINT = "\n\n"
"""What the protocol of the literature joins documents with."""

_STRINGS = ("string", "large_string", "string_view", "null", "dictionary<values=string, indices=int32, ordered=0>")

_CALIBRATION_SHARE = 5  # one document in five


@dataclass(frozen=True)
class Document:
    """A text and a name that is the same on every machine."""

    name: str
    text: str


def read_documents(source: Source, pattern: str, field: str, part: Part) -> list[Document]:
    """The documents of a text source in the order of their names.

    Args:
        source: a file (one document a .txt file; one a line of .jsonl; one a row of .parquet), a folder of such
            files, or a Hub dataset repository that holds such files.
        pattern: shell-style pattern that files of a folder have to match, relative to it.
        field: key or column that holds the text in .jsonl and .parquet.
        part: which documents: all, or those of one part. A document belongs to the calibration part if the SHA-256
            of its name is divisible by five, whatever other documents there are.

    Raises:
        UserError: no file, no document, a field that is missing, text that is not UTF-8.
    """
    root, files = _files(source, pattern)
    documents = [
        document
        for file in files
        for document in _documents(file, file.name if root == file else file.relative_to(root).as_posix(), field)
    ]
    chosen = [document for document in documents if part in ("all", _part(document.name))]
    if not any(document.text.strip() for document in chosen):
        raise UserError(
            f"{source.key}: no text in the {len(chosen)} documents of '{source.text}' (of {len(documents)} documents "
            f"the part '{part}' was asked for)"
        )
    return chosen


def split_documents(
    documents: Sequence[Document], validation: str | float, test: str | float, seed: int, key: str
) -> dict[str, list[Document]]:
    """Split whole documents by a seed into the parts `train`, `validation` and `test`.

    They are put in a random order, which depends on their number and `seed` only; the first are for testing, the next
    for validation, the rest to train on. A part has `round(fraction * documents)` of them (as the decimal is written,
    halves to even), and at least one. In each part they are in the order in which they were given.

    Args:
        documents: to split. A text that is there under two names counts as two.
        validation: fraction for validation, above 0 and below 1.
        test: the same for testing.
        seed: of the split.
        key: configuration key of the text, for messages.

    Raises:
        UserError: a fraction is out of range, or nothing is left to train on.
    """
    counts = {}
    for part, fraction in {"test": test, "validation": validation}.items():
        if not 0 < float(fraction) < 1:
            raise UserError(f"{key}: {part} is {fraction}; allowed is a fraction of the documents above 0 and below 1")
        counts[part] = max(1, round(Fraction(str(fraction)) * len(documents)))
    tested, held_out = counts["test"], sum(counts.values())
    if held_out >= len(documents):
        raise UserError(
            f"{key}: {len(documents)} documents; {counts['test']} for testing and {counts['validation']} for "
            "validation leave none to train on; lower the fractions, or split the text into more documents"
        )
    order = np.random.default_rng(stable_seed(seed, "split")).permutation(len(documents))
    places = {"train": order[held_out:], "validation": order[tested:held_out], "test": order[:tested]}
    return {part: [documents[place] for place in sorted(chosen)] for part, chosen in places.items()}


def _files(source: Source, pattern: str) -> tuple[Path, list[Path]]:
    # The Hub's patterns are fnmatch's, whose `**/` wants a folder; pathlib's matches none as well.
    root = source.local([pattern, pattern.replace("**/", "")], "dataset")
    if root.is_file():
        return root, [_readable(source, root)]
    try:
        files = [path for path in root.glob(pattern) if path.is_file() and path.suffix in SUFFIXES]
    except (ValueError, NotImplementedError) as error:
        raise UserError(f"{source.key}: '{pattern}' is no pattern of files in a folder ({error})") from None
    if not files:
        raise UserError(f"{source.key}: no {', '.join(SUFFIXES)} file matches '{pattern}' in '{source.text}'")
    return root, sorted(files, key=lambda path: path.relative_to(root).as_posix().encode())


def _readable(source: Source, path: Path) -> Path:
    if path.suffix not in SUFFIXES:
        raise UserError(f"{source.key}: '{path}' is no text; allowed are {', '.join(SUFFIXES)} and folders of them")
    return path


def _documents(path: Path, name: str, field: str) -> Iterator[Document]:
    if path.suffix == ".parquet":
        yield from _parquet(path, name, field)
        return
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {error.start}); convert it to UTF-8") from None
    if path.suffix == ".txt":
        yield Document(name, text)
        return
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines: JSON strings may hold U+2028 and its like
        if not line.strip():
            continue
        try:
            content = read_object(line)[field]
        except (KeyError, TypeError, ValueError):
            raise UserError(f"{path}: line {number} is no JSON object with the key '{field}'") from None
        if not isinstance(content, str):
            raise UserError(f"{path}: line {number}: '{field}' is {type(content).__name__}, expected a string")
        try:
            content.encode()
        except UnicodeEncodeError:
            raise UserError(f"{path}: line {number}: '{field}' holds half a surrogate pair, no character") from None
        yield Document(f"{name}:{number}", content)


def _parquet(path: Path, name: str, field: str) -> Iterator[Document]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        names = file.schema_arrow.names
        column = file.read([field]).column(field).to_pylist() if field in names else None
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: not a readable parquet file ({str(error).splitlines()[0]})") from None
    if column is None:
        raise UserError(f"{path}: has no column '{field}' but {', '.join(names)}; set the text's key field")
    if (kind := str(file.schema_arrow.field(field).type)) not in _STRINGS:
        raise UserError(f"{path}: column '{field}' holds {kind}, expected strings; set the text's key field")
    for number, text in enumerate(column, 1):
        if isinstance(text, str):
            yield Document(f"{name}:{number}", text)


def _part(name: str) -> Part:
    digest = hashlib.sha256(name.encode()).digest()
    return "calibration" if int.from_bytes(digest) % _CALIBRATION_SHARE == 0 else "evaluation"
