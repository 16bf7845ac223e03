"""Every benchmark runs, at toy size; what it measures is for `make bench` to say."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from checkouts import ROOT

pytestmark = pytest.mark.slow


def test_every_benchmark_runs(tmp_path: Path):
    command = [sys.executable, "-m", "benchmarks", "--smoke", "--scratch", tmp_path, "--output", tmp_path / "page.md"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    page = (tmp_path / "page.md").read_text()
    for section in ("Masks", "Evaluation", "Training", "Recovery", "Solvers"):
        assert f"## {section}" in page
