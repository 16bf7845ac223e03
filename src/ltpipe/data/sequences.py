"""Fixed token sequences, written once and read by every evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from ltpipe.checkpoints.tensorfile import TensorData, artefact, write_tensors
from ltpipe.data.documents import Document
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.files import sha256_of
from ltpipe.runtime.progress import track

FORMAT = "1"


@dataclass(frozen=True)
class TokenSequences:
    """Token sequences of one length.

    Attributes:
        input_ids: int32 [sequences, tokens].
        available: number of such windows in the whole text.
        documents: number of documents in the text.
        tokenizer: SHA-256 of the tokenizer file.
    """

    input_ids: np.ndarray
    available: int
    documents: int
    tokenizer: str

    def write(self, path: Path) -> None:
        """Write as safetensors with one tensor, `input_ids`."""
        metadata = {
            "format": FORMAT,
            "kind": "set of token sequences",
            "available": str(self.available),
            "documents": str(self.documents),
            "tokenizer": self.tokenizer,
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
            )
            if sequences.input_ids.ndim != 2 or sequences.input_ids.dtype != np.int32:
                raise ValueError("input_ids is not a table of int32")
        return sequences


def cut_sequences(
    documents: Sequence[Document], tokenizer: Path, length: int, count: int | None, separator: str, key: str
) -> TokenSequences:
    """Tokenise documents, join them, and cut non-overlapping windows.

    Each document is tokenised by itself, with `separator` after it and without special tokens. Of all windows of
    `length` tokens (the tail that fills none is dropped) `count` are taken at even distances over the whole text;
    None takes all.

    Args:
        documents: in the order in which they are joined.
        tokenizer: path of a tokenizer.json.
        length: tokens a sequence.
        count: number of sequences.
        separator: text between documents.
        key: configuration key of the text, for messages.

    Raises:
        UserError: the text has fewer windows than were asked for.
    """
    if length < 2 or (count is not None and count < 1):
        wanted = "all" if count is None else count
        raise UserError(f"{key}: {wanted} sequences of {length} tokens; allowed are 1 or more of 2 tokens or more")
    try:
        encoder = Tokenizer.from_file(str(tokenizer))
    except Exception as error:  # tokenizers raises nothing more special
        raise UserError(f"{tokenizer}: not a readable tokenizer.json ({error})") from None
    pieces = [
        np.array(encoder.encode(document.text + separator, add_special_tokens=False).ids, np.int32)
        for document in track(documents, "tokenising", "document")
    ]
    tokens = np.concatenate(pieces)
    available = len(tokens) // length
    wanted = available if count is None else count
    if available == 0:
        raise UserError(
            f"{key}: its {len(tokens)} tokens are fewer than one sequence of {length}; "
            "lower evaluate.sequence_length or give more text"
        )
    if wanted > available:
        raise UserError(
            f"{key}: has {available} sequences of {length} tokens; evaluate.num_sequences asks for {wanted}"
        )
    windows = tokens[: available * length].reshape(available, length)
    chosen = np.arange(wanted) * available // wanted
    return TokenSequences(np.ascontiguousarray(windows[chosen]), available, len(documents), sha256_of(tokenizer))
