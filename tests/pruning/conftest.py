"""Tiny checkpoints whose units can be pruned."""

from collections.abc import Callable
from pathlib import Path

import pytest
import structured
import torch


@pytest.fixture(scope="session")
def unit_source(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Function from a name in `structured.MODELS` (and a dtype) to a folder that save_pretrained wrote."""
    made: dict[tuple[str, torch.dtype], Path] = {}

    def folder(name: str, dtype: torch.dtype = torch.float32) -> Path:
        if (name, dtype) not in made:
            made[name, dtype] = structured.save(name, tmp_path_factory.mktemp(f"source-{name}"), dtype)
        return made[name, dtype]

    return folder


@pytest.fixture(scope="session")
def unit_folder(unit_source, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Function from the same arguments to the canonical checkpoint folder."""
    from ltpipe.checkpoints.load import load_checkpoint
    from ltpipe.runtime.sources import Source

    made: dict[tuple[str, torch.dtype], Path] = {}

    def folder(name: str, dtype: torch.dtype = torch.float32) -> Path:
        if (name, dtype) not in made:
            made[name, dtype] = tmp_path_factory.mktemp(f"canonical-{name}")
            load_checkpoint(Source(str(unit_source(name, dtype))), None, "auto", made[name, dtype])
        return made[name, dtype]

    return folder
