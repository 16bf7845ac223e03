"""A solve stage that was killed goes on at the block it was in, and writes the same bytes."""

import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from ltpipe.checkpoints.canonical import Checkpoint
from ltpipe.checkpoints.filenames import TOKENIZER
from ltpipe.checkpoints.prunable import Selection
from ltpipe.data.sequences import TokenSequences
from ltpipe.evaluation.computing import ComputeSettings
from ltpipe.inspection.recognise import describe
from ltpipe.runtime.files import sha256_of
from ltpipe.solving import solvers
from ltpipe.solving.solve import solve_checkpoint
from ltpipe.solving.solver import solver_named, solver_names

CPU = ComputeSettings(device="cpu", threads=1)


@pytest.fixture
def folder(canonical_folder) -> Path:
    return canonical_folder("llama")


@pytest.fixture
def text(folder, tmp_path) -> Path:
    ids = np.random.default_rng(3).integers(3, 90, (12, 24), dtype=np.int32)
    TokenSequences(ids, 12, 1, sha256_of(folder / TOKENIZER)).write(tmp_path / "text.safetensors")
    return tmp_path / "text.safetensors"


def solve(folder: Path, text: Path, place: Path, solver: str, **options) -> list[bytes]:
    place.mkdir(exist_ok=True)
    mask, solution = place / "mask", place / "solution"
    checkpoint = Checkpoint.open(folder)
    solve_checkpoint(checkpoint, solver, "row", "0.5", text, mask, solution, Selection(), CPU, options)
    return [mask.read_bytes(), solution.read_bytes()]


def stopping(monkeypatch: pytest.MonkeyPatch, solver: str, after: int) -> list[int]:
    """Let a solver be interrupted at a matrix; return a list that gets an entry for each one solved."""
    rule, calls = solver_named(solver), []
    own = rule.solve

    def counted(*args, **kwargs):
        if len(calls) == after:
            raise KeyboardInterrupt
        calls.append(1)
        return own(*args, **kwargs)

    monkeypatch.setattr(rule, "solve", staticmethod(counted))
    return calls


# Three blocks of seven matrices: inside the first, between the first and the second, inside the last.
@pytest.mark.parametrize(
    ("solver", "after"), [("sparsegpt", 3), ("sparsegpt", 7), ("wanda-sequential", 17), ("reconstruct", 17)]
)
def test_finished_blocks_are_not_solved_again(solver, after, folder, text, tmp_path, monkeypatch):
    whole = solve(folder, text, tmp_path / "whole", solver)
    with monkeypatch.context() as patch:
        stopping(patch, solver, after)
        with pytest.raises(KeyboardInterrupt):
            solve(folder, text, tmp_path / "killed", solver)
    left = sorted(path.name for path in (tmp_path / "killed").iterdir())
    assert left == (["mask.resume"] if after >= 7 else [])
    calls = stopping(monkeypatch, solver, 99)
    assert solve(folder, text, tmp_path / "killed", solver) == whole
    assert len(calls) == 21 - after // 7 * 7
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == ["mask", "solution"]


def test_blocks_of_other_options_or_damaged_files_are_solved_again(folder, text, tmp_path, monkeypatch, caplog):
    whole = solve(folder, text, tmp_path / "whole", "sparsegpt", damping="0.02")
    with monkeypatch.context() as patch:
        stopping(patch, "sparsegpt", 7)
        with pytest.raises(KeyboardInterrupt):
            solve(folder, text, tmp_path / "killed", "sparsegpt")
    (file,) = (tmp_path / "killed/mask.resume").iterdir()
    inspected = describe(file)
    assert inspected.kind == "solved block"
    assert len(inspected.listings[0].rows) == 7
    file.with_name("kept").write_bytes(file.read_bytes())
    assert solve(folder, text, tmp_path / "killed", "sparsegpt", damping="0.02") == whole
    file.parent.mkdir()
    file.write_bytes(bytes(100))
    calls = stopping(monkeypatch, "sparsegpt", 99)
    assert solve(folder, text, tmp_path / "killed", "sparsegpt", damping="0.02") == whole
    assert len(calls) == 21
    assert "solving the block again" in caplog.text


def test_blocks_of_edited_code_are_solved_again(folder, text, tmp_path, monkeypatch):
    """The code of a solver of one's own is no part of the package."""
    source = """
from ltpipe.solving.solvers.sparsegpt import SparseGPT
class Own(SparseGPT):
    pass
SOLVER = Own
"""
    (tmp_path / "plugins").mkdir()
    monkeypatch.setattr(solvers, "__path__", [*solvers.__path__, str(tmp_path / "plugins")])
    solver_names.cache_clear()
    file, calls = tmp_path / "plugins/own_sparse.py", []
    for number, code in enumerate((source, source, f"# edited{source}")):
        file.write_text(code)
        monkeypatch.delitem(sys.modules, "ltpipe.solving.solvers.own_sparse", raising=False)
        with monkeypatch.context() as patch:
            calls.append(stopping(patch, "own-sparse", 7 if number == 0 else 99))
            with pytest.raises(KeyboardInterrupt) if number == 0 else nullcontext():
                solve(folder, text, tmp_path / "killed", "own-sparse")
        if number == 1:
            shutil.copytree(tmp_path / "left", tmp_path / "killed/mask.resume")
        elif number == 0:
            shutil.copytree(tmp_path / "killed/mask.resume", tmp_path / "left")
    solver_names.cache_clear()
    assert list(map(len, calls)) == [7, 14, 21]


def test_a_killed_process_goes_on(folder, text, tmp_path):
    """The real command, killed when its first block is done."""
    whole = solve(folder, text, tmp_path / "whole", "reconstruct", epochs="40")
    place = tmp_path / "killed"
    place.mkdir()
    script = Path(__file__).parents[2] / "scripts/solve.py"
    command = [
        sys.executable, script, "--checkpoint", folder, "--solver", "reconstruct", "--scope", "row", "--sparsity",
        "0.5", "--sequences", text, "--mask", place / "mask", "--solution", place / "solution", "--options", "epochs",
        "40", "--device", "cpu", "--threads", "1",
    ]  # fmt: skip
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while process.poll() is None and not list(place.glob("mask.resume/*.safetensors")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL, process.stdout and process.stdout.read().decode()
    assert not (place / "mask").exists()
    assert solve(folder, text, place, "reconstruct", epochs="40") == whole
    assert sorted(path.name for path in place.iterdir()) == ["mask", "solution"]
