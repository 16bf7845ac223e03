"""Disks that are full or read-only in the middle of a run."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from disturbed import Run

pytestmark = pytest.mark.faults

MISSING = "results/imp/small/replicate-0/level-1/ticket.safetensors"


@pytest.fixture
def on_disk(copied: Run) -> Iterator[Run]:
    """A finished run whose results lie on a small file system in memory."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    aside = copied.results.rename(copied.folder / "aside")
    copied.results.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", copied.results]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting is not permitted here: {done.stderr.strip()}")
    shutil.copytree(aside, copied.results, dirs_exist_ok=True)
    yield copied
    subprocess.run(["umount", "--lazy", copied.results], check=True)


def fill(path: Path, spare: int) -> None:
    """Take all of the disk but so many bytes."""
    room = os.statvfs(path.parent)
    path.write_bytes(bytes(room.f_bavail * room.f_frsize - spare))


def lines_about(run: Run, words: str) -> set[str]:
    return {line.strip() for line in run.output.splitlines() if words in line}


@pytest.mark.parametrize("spare", [0, 200_000])
def test_a_disk_that_gets_full_in_the_middle_of_a_write(spare: int, on_disk: Run, same: Callable, tried: Callable):
    on_disk.lose(MISSING)
    fill(on_disk.results / "filler", spare)
    assert on_disk.ended() == 1
    (line,) = lines_about(on_disk, "the disk is full")
    assert line.startswith("error: results/")
    assert line.endswith(": the disk is full; free some space and run again")
    assert "Traceback" not in on_disk.output
    assert not list(on_disk.results.rglob("*.tmp"))
    (on_disk.results / "filler").unlink()
    on_disk.mend()
    same(on_disk)
    tried(
        "disk full in the middle of a write",
        "`error: results/…: the disk is full; free some space and run again`",
        "free some space, then the same command",
        1,
        "identical",
    )


def test_results_that_are_read_only(on_disk: Run, same: Callable, tried: Callable):
    on_disk.lose(MISSING)
    subprocess.run(["mount", "-o", "remount,ro", on_disk.results], check=True)
    assert on_disk.ended() != 0
    (line,) = on_disk.output.splitlines()[-1:]
    assert line.startswith("error: results: cannot be written to")
    assert "Traceback" not in on_disk.output
    subprocess.run(["mount", "-o", "remount,rw", on_disk.results], check=True)
    on_disk.mend()
    same(on_disk)
    tried("results folder read-only", f"`{line}`", "make it writable, then the same command", 1, "identical")
