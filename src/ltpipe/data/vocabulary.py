"""A tokenizer for a model that has none yet."""

from collections.abc import Sequence

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from ltpipe.data.documents import Document
from ltpipe.runtime.errors import UserError

_BYTES = 256


def train_tokenizer(documents: Sequence[Document], entries: int, key: str) -> Tokenizer:
    """Train a byte-level BPE tokenizer (Radford et al. 2019, GPT-2) on documents, the same for the same documents.

    It knows every byte, so that it can write any text, and has no special tokens.

    Args:
        documents: to count pairs in.
        entries: size of the vocabulary, 256 bytes included.
        key: configuration key of the task, for messages.

    Raises:
        UserError: there are fewer entries than bytes, or more than the documents have pairs that occur twice.
    """
    if entries < _BYTES:
        raise UserError(f"{key}: vocabulary is {entries}; allowed is {_BYTES}, one entry a byte, and more")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=entries, min_frequency=2, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator((document.text for document in documents), trainer)
    if tokenizer.get_vocab_size() < entries:
        raise UserError(
            f"{key}: vocabulary is {entries}, but the documents to train on give only {tokenizer.get_vocab_size()} "
            "entries; ask for no more than these, or give more text"
        )
    return tokenizer
