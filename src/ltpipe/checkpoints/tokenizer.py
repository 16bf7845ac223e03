"""Reads tokenizers from any source, and writes them into a canonical folder."""

import json
import logging
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ltpipe.checkpoints.filenames import TOKENIZER, TOKENIZER_CONFIG
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.files import atomic_write
from ltpipe.runtime.jsonfiles import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_PLAIN = "PreTrainedTokenizerFast"
_OF_THE_SOURCE = {"is_local", "local_files_only", "name_or_path", "tokenizer_file", "auto_map"}
_PROBES = (
    "",
    " ",
    "a",
    " a",
    "  a  b ",
    "Hello, world! It's 1984; isn't it? I'LL see 12345.",
    "two\nlines\n\n and\ttabs\r\n",
    "\n",
    "def f(x):\n    return x ** 2  # 3.14",
    "caf\u00e9 cafe\u0301 na\u00efve \u00c5 \ufb01 \uff21",
    "\u4f60\u597d\u4e16\u754c \u0917\u0941\u0930\u0941 \u0627\u0644\u0633\u0644\u0627\u0645 \U0001f600\u200d",
    "\u2581under_score -- <tag> [UNK] [MASK]",
)
"""Texts that reveal differences between tokenizers in how they split, normalise or begin a text."""


def read_tokenizer(place: Path, key: str) -> "PreTrainedTokenizerBase":
    """Return the tokenizer of a local source.

    Args:
        place: folder or GGUF file.
        key: configuration key of the source, for error messages.

    Raises:
        UserError: there is no tokenizer, or it cannot be read.
    """
    from transformers import AutoTokenizer

    where = {"gguf_file": place.name} if place.is_file() else {}
    try:
        return AutoTokenizer.from_pretrained(
            place.parent if where else place, local_files_only=True, trust_remote_code=False, **where
        )
    except Exception as error:  # tokenizer back ends raise anything, ImportError and TypeError included
        reason = str(error).strip().split("\n")[0]
        raise UserError(f"{key}: {_missing(place, reason)}, or set the model's key tokenizer") from None


def _missing(place: Path, reason: str) -> str:
    """Return what is wrong with a source whose tokenizer cannot be read, and how to fix it."""
    models = sorted(path.name for path in place.glob("*.model")) if place.is_dir() else []
    if models and not (place / TOKENIZER).is_file():
        return (
            f"'{place}' has no {TOKENIZER} but {models[0]}, which transformers converts with the packages "
            "sentencepiece and protobuf; install them"
        )
    return f"no tokenizer in '{place}' ({reason}); fetch its {TOKENIZER}"


def write_tokenizer(tokenizer: "PreTrainedTokenizerBase", folder: Path) -> None:
    """Write a tokenizer into a canonical folder, beside its `config.json`, so that transformers reads it back the same.

    Many transformers classes rebuild their splitting and special tokens from `tokenizer_config.json`, and some model
    types always use a fixed class. So all the tokenizer's settings are written and it is read back. If the result
    encodes differently, the plain class that uses `tokenizer.json` unchanged is written instead.

    Raises:
        UserError: it has no fast version.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError(f"{type(tokenizer).__name__} has no fast version (tokenizer.json); use another tokenizer")
    with atomic_write(folder / TOKENIZER) as file:
        file.write(backend.to_str(pretty=False).encode())
    said = _said(tokenizer)
    for content in (said, _plain(said)):
        with atomic_write(folder / TOKENIZER_CONFIG) as file:
            file.write(json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n")
        if _encodes_alike(tokenizer, folder):
            return
    logger.warning(
        "%s: transformers reads this tokenizer back as one that encodes differently; evaluations are not affected, but "
        "use the model's own tokenizer with an exported ticket",
        type(tokenizer).__name__,
    )


def _said(tokenizer: "PreTrainedTokenizerBase") -> dict[str, Any]:
    """Return a tokenizer's settings as `save_pretrained` writes them, with its special tokens and chat templates."""
    with TemporaryDirectory() as place:
        tokenizer.save_pretrained(place)
        content = read_json(Path(place) / TOKENIZER_CONFIG)
    templates = tokenizer.chat_template
    if isinstance(templates, dict):
        templates = [{"name": name, "template": template} for name, template in templates.items()]
    special = {key: str(value) for key, value in tokenizer.special_tokens_map.items() if isinstance(value, str)}
    name = content.get("tokenizer_class", _PLAIN)
    return {
        **{key: value for key, value in content.items() if key not in _OF_THE_SOURCE},
        **special,
        **({"chat_template": templates} if templates else {}),
        "tokenizer_class": _PLAIN if name == "TokenizersBackend" else name,  # its name in all versions
    }


def _plain(said: dict[str, Any]) -> dict[str, Any]:
    """Return the settings for the class that uses `tokenizer.json` unchanged, without those that would alter it."""
    return {**{key: value for key, value in said.items() if not key.startswith("add_")}, "tokenizer_class": _PLAIN}


def _encodes_alike(tokenizer: "PreTrainedTokenizerBase", folder: Path) -> bool:
    """Return whether a folder's tokenizer, read back, encodes as the given one does."""
    try:
        again = read_tokenizer(folder, "")
    except UserError:
        return False
    special = [str(token) for token in tokenizer.all_special_tokens]
    marked = ["".join(special), *(f"{token}the{token} cat {token}" for token in special)]
    called = all(_called(again, text) == _called(tokenizer, text) for text in _PROBES)
    return called and all(_encoded(again, text) == _encoded(tokenizer, text) for text in marked)


def _called(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[list[int]] | None:
    """Return a text's tokens with and without special tokens; None if the tokenizer cannot encode it."""
    try:
        return [tokenizer(text, add_special_tokens=added)["input_ids"] for added in (True, False)]
    except Exception:  # tokenizers raises no narrower class, for example for an unknown character
        return None


def _encoded(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int] | None:
    """Return a text's tokens from the fast tokenizer alone: some classes treat special tokens differently in calls."""
    try:
        return tokenizer.backend_tokenizer.encode(text).ids
    except Exception:  # as above
        return None
