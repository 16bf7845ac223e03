"""Fixtures that many suites share."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import VOCABULARY, save_tiny


@pytest.fixture(scope="session")
def source_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Function from an architecture to a folder that save_pretrained wrote; each is written once."""
    made: dict[str, Path] = {}

    def folder(architecture: str) -> Path:
        if architecture not in made:
            made[architecture] = save_tiny(architecture, tmp_path_factory.mktemp(architecture))
        return made[architecture]

    return folder


@pytest.fixture(scope="session")
def canonical_folder(source_folder, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Function from an architecture to its canonical checkpoint folder; each is loaded once."""
    from ltpipe.checkpoints.load import load_checkpoint
    from ltpipe.runtime.sources import Source

    made: dict[str, Path] = {}

    def folder(architecture: str) -> Path:
        if architecture not in made:
            made[architecture] = tmp_path_factory.mktemp(f"canonical-{architecture}")
            load_checkpoint(Source(str(source_folder(architecture))), None, "auto", made[architecture])
        return made[architecture]

    return folder


@pytest.fixture
def token_ids() -> torch.Tensor:
    """Seven sequences of 24 tokens, int64 [7, 24]."""
    return torch.randint(3, VOCABULARY, (7, 24), generator=torch.Generator().manual_seed(5))


@pytest.fixture
def calibration(canonical_folder, token_ids, tmp_path):
    """Function from an architecture to a file of seven sequences made with its tokenizer."""
    from ltpipe.checkpoints.layout import TOKENIZER
    from ltpipe.data.sequences import TokenSequences
    from ltpipe.runtime.files import sha256_of

    def written(architecture) -> Path:
        path = tmp_path / f"{architecture}.sequences"
        tokenizer = sha256_of(canonical_folder(architecture) / TOKENIZER)
        TokenSequences(token_ids.int().numpy(), 7, 1, tokenizer).write(path)
        return path

    return written
