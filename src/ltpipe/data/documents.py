"""Texts as named documents, independent of the file format."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ltpipe.data.conversations import ChatTemplate
from ltpipe.data.rows import is_readable, rows_of
from ltpipe.runtime.determinism import stable_seed
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.sources import Source

Part = Literal["all", "evaluation", "calibration"]
JOINT = "\n\n"
"""The separator that the literature's protocol joins documents with."""

_FILES = ".txt, .jsonl, .json (each also with .gz) or .parquet"
_CALIBRATION_SHARE = 5  # one document in five


@dataclass(frozen=True)
class Document:
    """A text and its name, which is the same on every machine."""

    name: str
    text: str


@dataclass(frozen=True)
class Documents:
    """The documents of a text source, ordered by name and read anew on every iteration.

    Only one document at a time is in memory. Iterating raises UserError if a file cannot be read or, at the end, if
    there was no text.

    Attributes:
        source: the text source.
        root: its file or folder.
        files: files to read, in order.
        field: key or column that holds the text.
        part: which documents to read.
        template: chat template for rows that are conversations.
    """

    source: Source
    root: Path
    files: Sequence[Path]
    field: str
    part: Part
    template: ChatTemplate | None = None

    def __iter__(self) -> Iterator[Document]:
        read, chosen, holds_text = 0, 0, False
        for document in self._all():
            read += 1
            if self.part in ("all", _part(document.name)):
                chosen += 1
                holds_text = holds_text or bool(document.text.strip())
                yield document
        if not holds_text:
            raise UserError(
                f"{self.source.key}: no text in the {chosen} documents of '{self.source.text}' (part '{self.part}' of "
                f"{read} documents)"
            )

    def _all(self) -> Iterator[Document]:
        for path in self.files:
            name = path.name if path == self.root else path.relative_to(self.root).as_posix()
            for place, value in rows_of(path, self.field):
                number = place.rpartition(" ")[2]
                yield Document(f"{name}:{number}" if place else name, self._text(value, path, place))

    def _text(self, value: Any, path: Path, place: str) -> str:
        where = f"{path}: {place}: '{self.field}'"
        if isinstance(value, list) and self.template is not None:
            value = self.template.text(value, where)
        if not isinstance(value, str):
            raise UserError(f"{where} is {type(value).__name__}, expected a string")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise UserError(f"{where} holds half a surrogate pair, which is not a character") from None
        return value


def read_documents(
    source: Source, pattern: str, field: str, part: Part, template: ChatTemplate | None = None
) -> Documents:
    """Return the documents of a text source.

    Args:
        source: a file, a folder of files, or a Hub dataset repository with such files. One document is a .txt file, a
            line of .jsonl or .json, an entry of an array in .json, or a row of .parquet; all but .parquet may be
            compressed as .gz.
        pattern: shell-style pattern, relative to the folder, that files must match. It must name .json files
            explicitly, since many datasets keep notes in them.
        field: key or column that holds the text, or a list of messages.
        part: which documents: all, or those of one part. A document belongs to the calibration part if the SHA-256
            of its name is divisible by five, independent of other documents.
        template: chat template for rows that are conversations; without one they are rejected.

    Raises:
        UserError: there is no such file.
    """
    root, files = _files(source, pattern)
    return Documents(source, root, files, field, part, template)


def split_documents(
    documents: Sequence[Document], validation: str | float, test: str | float, seed: int, key: str
) -> dict[str, list[Document]]:
    """Split whole documents by a seed into the parts `train`, `validation` and `test`.

    Documents are put in a random order that depends only on their number and `seed`: the first are for testing, the
    next for validation, the rest for training. A part has `round(fraction * documents)` documents (the decimal as
    written, halves to even), at least one. Each part keeps the given order.

    Args:
        documents: the documents to split. A text under two names counts twice.
        validation: fraction for validation, above 0 and below 1.
        test: the same for testing.
        seed: seed of the split.
        key: the text's configuration key, for error messages.

    Raises:
        UserError: a fraction is out of range, or nothing is left to train on.
    """
    counts = {}
    for part, fraction in {"test": test, "validation": validation}.items():
        if not 0 < float(fraction) < 1:
            raise UserError(f"{key}: {part} is {fraction}; use a fraction of the documents above 0 and below 1")
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
    # The Hub's patterns are fnmatch's, whose `**/` requires a folder; pathlib's also matches no folder.
    root = source.local([pattern, pattern.replace("**/", "")], "dataset")
    if root.is_file():
        return root, [_readable(source, root)]
    try:
        files = [path for path in root.glob(pattern) if path.is_file() and is_readable(path) and _named(path, pattern)]
    except (ValueError, NotImplementedError) as error:
        raise UserError(f"{source.key}: '{pattern}' is not a pattern of files in a folder ({error})") from None
    if not files:
        raise UserError(f"{source.key}: no {_FILES} file matches '{pattern}' in '{source.text}'")
    return root, sorted(files, key=lambda path: path.relative_to(root).as_posix().encode())


def _named(path: Path, pattern: str) -> bool:
    """Return whether a pattern names a file: .json files may be notes, so the pattern must name them explicitly."""
    notes = (".json", ".json.gz")
    return not path.name.endswith(notes) or pattern.endswith(notes)


def _readable(source: Source, path: Path) -> Path:
    if not is_readable(path):
        raise UserError(f"{source.key}: '{path}' is not a text; use {_FILES}, or a folder of them")
    return path


def _part(name: str) -> Part:
    digest = hashlib.sha256(name.encode()).digest()
    return "calibration" if int.from_bytes(digest) % _CALIBRATION_SHARE == 0 else "evaluation"
