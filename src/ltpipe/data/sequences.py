"""Fixed token sequences, written once and read by every evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tokenizers import Tokenizer

from ltpipe.checkpoints.layout import TOKENIZER_CONFIG
from ltpipe.checkpoints.tensorfile import artefact
from ltpipe.checkpoints.tensorwriter import TensorData, write_tensors
from ltpipe.data.documents import JOINT, Document
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.files import check_file, sha256_of
from ltpipe.runtime.jsonfiles import read_json
from ltpipe.runtime.progress import track

FORMAT = "2"

Protocol = Literal["documents", "wikitext2"]
"""How a text becomes windows: see `cut_windows` and `cut_joined_windows`."""


@dataclass(frozen=True)
class TokenSequences:
    """Token sequences of one length.

    Attributes:
        input_ids: int32 [sequences, tokens].
        available: number of such windows in the whole text.
        documents: number of documents in the text.
        tokenizer: SHA-256 of the tokenizer file.
        protocol: how the text became windows.
    """

    input_ids: np.ndarray
    available: int
    documents: int
    tokenizer: str
    protocol: str = "documents"

    def write(self, path: Path) -> None:
        """Write as safetensors with one tensor, `input_ids`."""
        metadata = {
            "format": FORMAT,
            "kind": "set of token sequences",
            "available": str(self.available),
            "documents": str(self.documents),
            "tokenizer": self.tokenizer,
            "protocol": self.protocol,
        }
        write_tensors(path, [TensorData.of("input_ids", self.input_ids)], metadata)

    @classmethod
    def read(cls, path: Path) -> "TokenSequences":
        """Read what `write` wrote.

        Raises:
            DamagedFileError: the file is something else.
        """
        with artefact(path, "set of token sequences", FORMAT) as file:
            sequences = cls(
                file.array("input_ids"),
                int(file.metadata["available"]),
                int(file.metadata["documents"]),
                file.metadata["tokenizer"],
                file.metadata["protocol"],
            )
            if sequences.input_ids.ndim != 2 or sequences.input_ids.dtype != np.int32:
                raise ValueError("input_ids is not a table of int32")
            if sequences.input_ids.size and (smallest := int(sequences.input_ids.min())) < 0:
                raise ValueError(f"token {smallest}")
        return sequences


def cut_sequences(
    documents: Sequence[Document],
    tokenizer: Path,
    length: int,
    count: int | None,
    separator: str,
    key: str,
    protocol: Protocol = "documents",
) -> TokenSequences:
    """Cut windows, and of all of them take `count` at even distances over the whole text.

    Args:
        documents: in the order in which they are joined.
        tokenizer: path of a tokenizer.json.
        length: tokens a sequence.
        count: number of sequences; None takes all.
        separator: text between documents.
        key: configuration key of the text, for messages.
        protocol: `documents` (`cut_windows`), or `wikitext2` (`cut_joined_windows`), which takes all windows.

    Raises:
        UserError: the text has fewer windows than were asked for, the tokenizer cannot be read, or the protocol does
            not allow the count or the separator.
    """
    if count is not None and count < 1:
        raise UserError(f"{key}: {count} sequences of {length} tokens; allowed are 1 or more")
    if protocol == "wikitext2":
        if count is not None or separator != JOINT:
            raise UserError(
                f"{key}: protocol wikitext2 joins documents with two newlines and takes all windows; "
                "leave out separator and number of sequences, or take protocol documents"
            )
        windows = cut_joined_windows(documents, read_tokenizer(tokenizer), length, key)
    else:
        windows = cut_windows(documents, read_tokenizer(tokenizer), length, separator, key)
    available = len(windows)
    wanted = available if count is None else count
    if wanted > available:
        raise UserError(
            f"{key}: has {available} sequences of {length} tokens; evaluate.num_sequences asks for {wanted}"
        )
    return TokenSequences(spread(windows, wanted), available, len(documents), sha256_of(tokenizer), protocol)


def read_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer.json. What it says of truncation and padding is left out, as transformers does.

    Whether special tokens are found in a text is said beside it, in `tokenizer_config.json` if that is there.

    Raises:
        UserError: it is missing or none.
    """
    check_file(path)
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing more special
        raise UserError(f"{path}: not a readable tokenizer.json ({error})") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = bool(_said_beside(path).get("split_special_tokens"))
    return tokenizer


def _said_beside(path: Path) -> dict[str, Any]:
    """What `tokenizer_config.json` beside a tokenizer.json says; nothing if it is not there."""
    beside = path.with_name(TOKENIZER_CONFIG)
    return read_json(beside) if beside.is_file() else {}


def cut_windows(
    documents: Sequence[Document], tokenizer: Tokenizer, length: int, separator: str, key: str
) -> np.ndarray:
    """Tokenise documents, join them, and cut non-overlapping windows, int32 [windows, length].

    Each document is tokenised by itself, with `separator` after it and without special tokens. The tail that fills no
    window is dropped.

    Raises:
        UserError: the text does not fill one window.
    """
    pieces = [
        np.array(tokenizer.encode(document.text + separator, add_special_tokens=False).ids, np.int32)
        for document in track(documents, "tokenising", "document")
    ]
    return _windows(np.concatenate(pieces), length, key)


def cut_joined_windows(documents: Sequence[Document], tokenizer: Tokenizer, length: int, key: str) -> np.ndarray:
    """Join documents, tokenise once, and cut non-overlapping windows, int32 [windows, length].

    The protocol in which the literature of pruning measures the perplexity of WikiText-2 (Frantar & Alistarh 2023,
    2301.00774; Sun et al. 2023, 2306.11695; their `get_wikitext2` and `eval_ppl`): two newlines between documents,
    special tokens as the tokenizer adds them to a text (one at the start of all, for many models), all windows, the
    tail dropped. A window predicts `length` - 1 tokens.

    Raises:
        UserError: the text does not fill one window.
    """
    text = JOINT.join(document.text for document in documents)
    return _windows(np.array(tokenizer.encode(text).ids, np.int32), length, key)


def _windows(tokens: np.ndarray, length: int, key: str) -> np.ndarray:
    if length < 2:
        raise UserError(f"{key}: all sequences of {length} tokens; allowed are sequences of 2 tokens or more")
    available = len(tokens) // length
    if available == 0:
        raise UserError(
            f"{key}: its {len(tokens)} tokens are fewer than one sequence of {length}; "
            "lower sequence_length or give more text"
        )
    return tokens[: available * length].reshape(available, length)


def spread(windows: np.ndarray, count: int) -> np.ndarray:
    """So many rows of [windows, length] at even distances; `count` is at most their number."""
    return np.ascontiguousarray(windows[np.arange(count) * len(windows) // count])
