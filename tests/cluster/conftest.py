"""A real SLURM on this machine, for the tests of this folder."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from clusters import Slurm

SCRIPT = Path(__file__).with_name("slurm.sh")


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    """Stopped again, whatever the tests did."""
    if os.geteuid() != 0 or not Path("/etc/debian_version").exists():
        pytest.skip("a SLURM is installed and started by root, on Debian")
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # short: sockets lie in it
    try:
        started = subprocess.run([SCRIPT, "up", folder], capture_output=True, text=True, check=False, timeout=600)
        assert started.returncode == 0, started.stderr
        yield Slurm(folder)
    finally:
        subprocess.run([SCRIPT, "down", folder], check=True, timeout=300)
        shutil.rmtree(folder)
