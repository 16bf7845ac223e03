"""Loading a model's source as the load stage does, and what is refused."""

import json
from pathlib import Path

import pytest
import torch

from ltpipe.checkpoints.load import load_checkpoint
from ltpipe.checkpoints.manifest import Manifest
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.sources import Source

KEY = "models.tiny.source"


def read(source: Path | str, folder: Path, dtype: str = "auto", tokenizer: Path | None = None) -> Manifest:
    words = Source(str(tokenizer), "models.tiny.tokenizer") if tokenizer else None
    return load_checkpoint(Source(str(source), KEY), words, dtype, folder)


def refused(source: Path | str, folder: Path, *words: str, dtype: str = "auto") -> None:
    """Loading ends with one line that holds all the words, and writes nothing."""
    with pytest.raises(UserError) as caught:
        read(source, folder, dtype)
    message = str(caught.value)
    assert "\n" not in message
    assert [word for word in words if word not in message] == [], message
    assert not list(folder.rglob("*"))


def edit(path: Path, **changes: object) -> None:
    """Change keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """Bit patterns: -0.0 and NaNs compare too."""
    return tensor.contiguous().view({2: torch.int16, 4: torch.int32}[tensor.itemsize])
