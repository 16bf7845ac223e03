"""A new tokenizer for a model without one."""

from collections.abc import Sequence

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from ltpipe.data.documents import Document
from ltpipe.runtime.errors import UserError

_BYTES = 256


def train_tokenizer(documents: Sequence[Document], entries: int, key: str) -> Tokenizer:
    """Train a byte-level BPE tokenizer (Radford et al. 2019, GPT-2); the same documents give the same tokenizer.

    It knows every byte, so it can encode any text, and it has no special tokens.

    Args:
        documents: documents to count pairs in.
        entries: size of the vocabulary, including 256 bytes.
        key: the task's configuration key, for error messages.

    Raises:
        UserError: there are fewer entries than bytes, or too few pairs that occur twice in the documents.
    """
    if entries < _BYTES:
        raise UserError(f"{key}: vocabulary is {entries}; use {_BYTES}, one entry per byte, or more")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=entries, min_frequency=2, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator((document.text for document in documents), trainer)
    if tokenizer.get_vocab_size() < entries:
        raise UserError(
            f"{key}: vocabulary is {entries}, but the training documents give only {tokenizer.get_vocab_size()} "
            "entries; lower vocabulary or provide more text"
        )
    return tokenizer
