"""Conversations rendered as text by the model's own chat template."""

from functools import cached_property
from typing import TYPE_CHECKING, Any

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.filenames import TOKENIZER, TOKENIZER_CONFIG
from ltpipe.runtime.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROLE, CONTENT = "role", "content"


class ChatTemplate:
    """The chat template of a checkpoint's tokenizer, read only when a conversation needs it."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    @cached_property
    def _tokenizer(self) -> "PreTrainedTokenizerBase":
        from ltpipe.checkpoints.tokenizer import read_tokenizer

        for name in (TOKENIZER, TOKENIZER_CONFIG):
            self._checkpoint.verified(name)
        return read_tokenizer(self._checkpoint.folder, str(self._checkpoint.folder))

    def text(self, messages: list[Any], where: str) -> str:
        """Render a conversation as one text with transformers' `apply_chat_template`.

        Args:
            messages: mappings with at least `role` and `content`; values of None are dropped.
            where: the row's location, for error messages.

        Raises:
            UserError: the tokenizer has no template, or the template does not accept these messages.
        """
        if not messages or not all(isinstance(each, dict) and isinstance(each.get(ROLE), str) for each in messages):
            raise UserError(f"{where} is a list, but not of messages with the keys {ROLE} and {CONTENT}")
        if not self._tokenizer.chat_template:
            raise UserError(
                f"{where} holds messages, and the model's tokenizer has no chat template; choose one that has with the "
                "model's key tokenizer, or name a field of plain text"
            )
        plain = [{key: value for key, value in each.items() if value is not None} for each in messages]
        try:
            text = self._tokenizer.apply_chat_template(plain, tokenize=False)
        except Exception as error:  # templates can raise anything
            reason = str(error).split("\n")[0]
            raise UserError(f"{where}: the model's chat template rejects these messages ({reason})") from None
        return str(text)
