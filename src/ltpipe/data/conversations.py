"""Conversations as the text that a model was trained on: through its own chat template."""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ltpipe.checkpoints.canonical import checked
from ltpipe.checkpoints.layout import TOKENIZER, TOKENIZER_CONFIG
from ltpipe.runtime.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROLE, CONTENT = "role", "content"


class ChatTemplate:
    """The chat template of a canonical folder's tokenizer, which nobody reads before there is a conversation."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @cached_property
    def _tokenizer(self) -> "PreTrainedTokenizerBase":
        from ltpipe.checkpoints.tokenizer import read_tokenizer

        for name in (TOKENIZER, TOKENIZER_CONFIG):
            checked(self._folder, name)
        return read_tokenizer(self._folder, str(self._folder))

    def text(self, messages: list[Any], where: str) -> str:
        """A conversation as one text, as transformers' `apply_chat_template` makes it.

        Args:
            messages: each a mapping with at least `role` and `content`; values of None are left out.
            where: of the row, for messages.

        Raises:
            UserError: the tokenizer has no template, or it does not take these messages.
        """
        if not messages or not all(isinstance(each, dict) and isinstance(each.get(ROLE), str) for each in messages):
            raise UserError(f"{where} is a list, but not of messages with the keys {ROLE} and {CONTENT}")
        if not self._tokenizer.chat_template:
            raise UserError(
                f"{where} holds messages, and the model's tokenizer has no chat template; take one that has, with the "
                "model's key tokenizer, or name a field of plain text"
            )
        plain = [{key: value for key, value in each.items() if value is not None} for each in messages]
        try:
            text = self._tokenizer.apply_chat_template(plain, tokenize=False)
        except Exception as error:  # a template raises what it likes
            reason = str(error).split("\n")[0]
            raise UserError(f"{where}: the model's chat template does not take these messages ({reason})") from None
        return str(text)
