"""Tokenizers: read from any source, written as a canonical folder holds them."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from ltpipe.checkpoints.layout import TOKENIZER, TOKENIZER_CONFIG
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.files import atomic_write

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def read_tokenizer(place: Path, key: str) -> "PreTrainedTokenizerBase":
    """The tokenizer of a local source.

    Args:
        place: folder or GGUF file.
        key: configuration key of the source, for messages.

    Raises:
        UserError: there is none that can be read.
    """
    from transformers import AutoTokenizer

    where = {"gguf_file": place.name} if place.is_file() else {}
    try:
        return AutoTokenizer.from_pretrained(
            place.parent if where else place, local_files_only=True, trust_remote_code=False, **where
        )
    except Exception as error:  # tokenizer back ends raise anything, ImportError and TypeError included
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"{key}: no tokenizer in '{place}' ({reason}); name one with the model's key tokenizer"
        ) from None


def write_tokenizer(tokenizer: "PreTrainedTokenizerBase", folder: Path) -> None:
    """Write a tokenizer into a canonical folder.

    Raises:
        UserError: it has no fast form.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError(f"{type(tokenizer).__name__} has no fast form (tokenizer.json); name another tokenizer")
    special = {key: str(value) for key, value in tokenizer.special_tokens_map.items() if isinstance(value, str)}
    with atomic_write(folder / TOKENIZER) as file:
        file.write(backend.to_str(pretty=False).encode())
    with atomic_write(folder / TOKENIZER_CONFIG) as file:
        chat = {"chat_template": template} if isinstance(template := tokenizer.chat_template, str) else {}
        content = {"tokenizer_class": type(tokenizer).__name__, **special, **chat}
        file.write(json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n")
