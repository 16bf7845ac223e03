"""Fixed token sequences, written once and read by all evaluations."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tokenizers import Tokenizer

from ltpipe.checkpoints.filenames import CONFIG, TOKENIZER_CONFIG
from ltpipe.checkpoints.tensorfile import artefact
from ltpipe.checkpoints.tensorwriter import TensorData, write_tensors
from ltpipe.data.documents import JOINT, Document
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.files import check_file, sha256_of
from ltpipe.runtime.jsonfiles import read_json
from ltpipe.runtime.progress import track

FORMAT = "3"

Protocol = Literal["documents", "wikitext2"]
"""How a text is cut into sequences: see `all_sequences` and `joined_tokens`."""

Bos = Literal["auto", "each window", "never"]
"""Which sequences start with the tokens the tokenizer starts a text with: see `cut_sequences`."""

_BATCH = 1 << 18  # characters tokenised at a time


@dataclass(frozen=True)
class TokenSequences:
    """Token sequences of equal length.

    Attributes:
        input_ids: int32 [sequences, tokens].
        available: number of sequences in the whole text.
        documents: number of documents in the text.
        tokenizer: SHA-256 of the tokenizer file.
        protocol: how the text was cut into sequences.
        bos: which sequences start with the tokens the tokenizer starts a text with, usually BOS: `each window`,
            `first window` or `never`.
    """

    input_ids: np.ndarray
    available: int
    documents: int
    tokenizer: str
    protocol: str = "documents"
    bos: str = "never"

    def write(self, path: Path) -> None:
        """Write as safetensors with one tensor, `input_ids`."""
        metadata = {
            "format": FORMAT,
            "kind": "set of token sequences",
            "available": str(self.available),
            "documents": str(self.documents),
            "tokenizer": self.tokenizer,
            "protocol": self.protocol,
            "bos": self.bos,
        }
        write_tensors(path, [TensorData.of("input_ids", self.input_ids)], metadata)

    @classmethod
    def read(cls, path: Path) -> "TokenSequences":
        """Read a file that `write` wrote.

        Raises:
            DamagedFileError: the file is not a set of token sequences.
        """
        with artefact(path, "set of token sequences", FORMAT) as file:
            sequences = cls(
                file.array("input_ids"),
                int(file.metadata["available"]),
                int(file.metadata["documents"]),
                file.metadata["tokenizer"],
                file.metadata["protocol"],
                file.metadata["bos"],
            )
            if sequences.input_ids.ndim != 2 or sequences.input_ids.dtype != np.int32:
                raise ValueError("input_ids is not a table of int32")
            if sequences.input_ids.size and (smallest := int(sequences.input_ids.min())) < 0:
                raise ValueError(f"token {smallest}")
        return sequences


def cut_sequences(
    documents: Iterable[Document],
    tokenizer: Path,
    length: int,
    count: int | None,
    separator: str,
    key: str,
    protocol: Protocol = "documents",
    bos: Bos = "auto",
) -> TokenSequences:
    """Cut a text into sequences and take `count` of them, evenly spaced over the whole text.

    Args:
        documents: documents in the order to join them. Unless all sequences are taken, they are iterated twice and only
            the sequences taken are in memory.
        tokenizer: path of a tokenizer.json.
        length: tokens per sequence.
        count: number of sequences; None takes all.
        separator: text between documents.
        key: the text's configuration key, for error messages.
        protocol: `documents` (`all_sequences`), or `wikitext2` (`joined_tokens`), which takes all sequences.
        bos: `each window` prepends to every sequence the tokens the tokenizer starts a text with, usually its BOS; the
            sequence then has that many fewer tokens of text. `never` prepends none. `auto` under `documents` is
            `each window` if the tokenizer starts a text with any such tokens or the model is a Gemma. `auto` under
            `wikitext2` follows the literature: they precede the joined text, so only the first sequence has them.

    Raises:
        UserError: the text has fewer sequences than `count`, the tokenizer cannot be read or has no BOS, or the
            protocol does not allow the count or the separator.
    """
    if count is not None and count < 1:
        raise UserError(f"{key}: {count} sequences of {length} tokens; use 1 or more")
    words = read_tokenizer(tokenizer)
    beginning = _beginning(words)
    joined = protocol == "wikitext2"
    if not beginning and (bos == "each window" or (bos == "auto" and not joined and _is_lost_without(tokenizer))):
        beginning = [_named_bos(tokenizer, words, key)]
    if joined and (count is not None or separator != JOINT):
        raise UserError(
            f"{key}: protocol wikitext2 joins documents with two newlines and takes all sequences; "
            "omit separator and number of sequences, or use protocol documents"
        )
    counted = _Counted(documents)
    each = bool(beginning) and (bos == "each window" or (bos == "auto" and not joined))
    before = beginning if each else []
    check_length(length, f"{key}: {'all' if count is None else count}", max(2, len(before) + 1))
    if joined:
        tokens = joined_tokens(counted, words, special=bos == "auto")
        sequences = _cut(tokens, length - len(before), key)
        available = len(sequences)
    elif count is None:
        sequences = all_sequences(counted, words, length - len(before), separator, key)
        available = len(sequences)
    else:
        sequences, available = spread_sequences(counted, words, length - len(before), count, separator, key)
    start = np.tile(np.array(before, np.int32), (len(sequences), 1))
    said = "each window" if each else "first window" if joined and bos == "auto" and beginning else "never"
    return TokenSequences(
        np.hstack([start, sequences]), available, counted.number, sha256_of(tokenizer), protocol, said
    )


def check_length(length: int, which: str, least: int = 2) -> None:
    """Reject sequences in which nothing is predicted; `which` names them in the error message.

    Raises:
        UserError: the sequences have fewer tokens than `least`.
    """
    if length < least:
        raise UserError(f"{which} sequences of {length} tokens; use sequences of {least} tokens or more")


class _Counted:
    """Documents and their number at the last iteration."""

    def __init__(self, documents: Iterable[Document]) -> None:
        self._documents = documents
        self.number = 0

    def __iter__(self) -> Iterator[Document]:
        self.number = 0
        for document in self._documents:
            self.number += 1
            yield document


def _beginning(tokenizer: Tokenizer) -> list[int]:
    """Return the special tokens that a tokenizer puts before a text."""
    if not tokenizer.num_special_tokens_to_add(is_pair=False):
        return []
    encoding = tokenizer.encode("a")
    before = next((place for place, special in enumerate(encoding.special_tokens_mask) if not special), 0)
    return encoding.ids[:before]


def _is_lost_without(path: Path) -> bool:
    """Return whether the model beside a tokenizer predicts nothing useful without BOS, as all Gemmas do."""
    beside = path.with_name(CONFIG)
    return beside.is_file() and "gemma" in str(read_json(beside).get("model_type"))


def _named_bos(path: Path, tokenizer: Tokenizer, key: str) -> int:
    """Return the BOS token from the configuration of a tokenizer that does not start a text with it."""
    named = _said_beside(path).get("bos_token")
    number = tokenizer.token_to_id(named) if isinstance(named, str) else None
    if number is None:
        raise UserError(f"{key}: the tokenizer has no BOS token to start each sequence with; use bos: auto or never")
    return number


def read_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer.json. Like transformers, ignore its truncation and padding.

    A `tokenizer_config.json` beside it says whether special tokens are recognised in a text.

    Raises:
        UserError: the file is missing or not a tokenizer.
    """
    check_file(path)
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing more specific
        raise UserError(f"{path}: not a readable tokenizer.json ({error})") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = bool(_said_beside(path).get("split_special_tokens"))
    return tokenizer


def _said_beside(path: Path) -> dict[str, Any]:
    """Return the content of `tokenizer_config.json` beside a tokenizer.json; empty if missing."""
    beside = path.with_name(TOKENIZER_CONFIG)
    return read_json(beside) if beside.is_file() else {}


def all_sequences(
    documents: Iterable[Document], tokenizer: Tokenizer, length: int, separator: str, key: str
) -> np.ndarray:
    """Tokenise documents, join them, and cut non-overlapping sequences, int32 [sequences, length].

    Each document is tokenised separately, followed by `separator` and without special tokens. An incomplete sequence at
    the end is dropped.

    Raises:
        UserError: the text does not fill one sequence.
    """
    pieces = [np.empty(0, np.int32), *_tokenised(documents, tokenizer, separator)]
    return _cut(np.concatenate(pieces), length, key)


def spread_sequences(
    documents: Iterable[Document], tokenizer: Tokenizer, length: int, count: int, separator: str, key: str
) -> tuple[np.ndarray, int]:
    """Return `count` evenly spaced sequences of `all_sequences`, as `spread` chooses them, and the total number.

    Documents are iterated twice: to count tokens, then to tokenise those that overlap a chosen sequence. Memory holds
    the chosen sequences and eight bytes per document.

    Raises:
        UserError: the text has fewer sequences.
    """
    sizes = np.fromiter((tokens.size for tokens in _tokenised(documents, tokenizer, separator)), np.int64)
    ends = np.cumsum(sizes)
    available = _available(int(ends[-1]) if ends.size else 0, length, key)
    if count > available:
        raise UserError(
            f"{key}: has {available} sequences of {length} tokens; {count} are asked for; ask for fewer or shorter ones"
        )
    starts = spread(np.arange(available), count) * length
    sequences = np.empty((count, length), np.int32)
    first = np.searchsorted(starts + length, ends - sizes, "right")  # first sequence that overlaps each document
    after = np.searchsorted(starts, ends, "left")
    needed = np.flatnonzero((first < after) & (sizes > 0))
    found = _tokenised(_only(documents, needed), tokenizer, separator)
    for number, tokens in zip_longest(needed, found):
        if tokens is None or tokens.size != sizes[number]:
            raise UserError(f"{key}: files changed while they were read; run again")
        begin = ends[number] - sizes[number]
        for row in range(first[number], after[number]):
            left, right = max(begin, starts[row]), min(ends[number], starts[row] + length)
            sequences[row, left - starts[row] : right - starts[row]] = tokens[left - begin : right - begin]
    return sequences, available


def joined_tokens(documents: Iterable[Document], tokenizer: Tokenizer, *, special: bool) -> np.ndarray:
    """Join documents and tokenise once; return int32 [tokens].

    This is the pruning literature's protocol for WikiText-2 perplexity (Frantar & Alistarh 2023, 2301.00774; Sun et al.
    2023, 2306.11695; their `get_wikitext2` and `eval_ppl`): two newlines between documents, special tokens as the
    tokenizer adds them to a text (for many models one at the very start) unless `special` is false, all sequences, an
    incomplete last sequence dropped. A sequence predicts one token fewer than it has.
    """
    text = JOINT.join(document.text for document in documents)
    return np.array(tokenizer.encode(text, add_special_tokens=special).ids, np.int32)


def _tokenised(documents: Iterable[Document], tokenizer: Tokenizer, separator: str) -> Iterator[np.ndarray]:
    """Yield each document's tokens, int32 [tokens]; tokenises several documents at a time."""
    for texts in _batches(document.text + separator for document in track(documents, "tokenising", "document")):
        for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False):
            yield np.array(encoding.ids, np.int32)


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    held = 0
    for text in texts:
        batch.append(text)
        held += len(text)
        if held >= _BATCH:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def _only(documents: Iterable[Document], numbers: np.ndarray) -> Iterator[Document]:
    """Yield the documents with these ascending numbers."""
    wanted = iter(numbers)
    following = next(wanted, None)
    for number, document in enumerate(documents):
        if number == following:
            yield document
            following = next(wanted, None)


def _cut(tokens: np.ndarray, length: int, key: str) -> np.ndarray:
    available = _available(len(tokens), length, key)
    return tokens[: available * length].reshape(available, length)


def _available(tokens: int, length: int, key: str) -> int:
    """Return how many sequences a number of tokens fills."""
    if tokens < length:
        raise UserError(
            f"{key}: its {tokens} tokens are fewer than one sequence of {length}; "
            "lower sequence_length or provide more text"
        )
    return tokens // length


def spread(sequences: np.ndarray, count: int) -> np.ndarray:
    """Return `count` evenly spaced rows of [sequences, length]; `count` must not exceed their number."""
    return np.ascontiguousarray(sequences[np.arange(count) * len(sequences) // count])
