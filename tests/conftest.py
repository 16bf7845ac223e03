"""Fixtures that many suites share."""

from collections.abc import Callable
from pathlib import Path

import pytest
import structured
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
    from ltpipe.checkpoints.filenames import TOKENIZER
    from ltpipe.data.sequences import TokenSequences
    from ltpipe.runtime.files import sha256_of

    def written(architecture) -> Path:
        path = tmp_path / f"{architecture}.sequences"
        tokenizer = sha256_of(canonical_folder(architecture) / TOKENIZER)
        TokenSequences(token_ids.int().numpy(), 7, 1, tokenizer).write(path)
        return path

    return written


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


FAULTS = ("fault", "what is seen", "remedy", "times tried", "outcome")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table of docs/faults.md. It stands here because, with several processes, only this file's hooks are heard."""
    rows: dict[tuple[str, ...], int] = {}
    for report in terminalreporter.stats.get("passed", []):
        for _, (fault, seen, remedy, times, outcome) in report.user_properties:
            rows[fault, seen, remedy, outcome] = rows.get((fault, seen, remedy, outcome), 0) + times
    if rows:
        lines = [(*row[:3], str(times), row[3]) for row, times in sorted(rows.items())]
        for line in (FAULTS, ("---", "---", "---", "---:", "---"), *lines):
            terminalreporter.write_line(f"| {' | '.join(line)} |")
