"""Checkouts of the workflow in a folder of their own, and what snakemake would make there."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
SNAKEMAKE = Path(sys.executable).with_name("snakemake")


def checkout(folder: Path) -> Path:
    """A fresh checkout of the code, file times and all."""
    for name in ("workflow", "scripts", "src", "profiles"):
        shutil.copytree(ROOT / name, folder / name, copy_function=shutil.copyfile)
    shutil.copyfile(ROOT / "Snakefile", folder / "Snakefile")
    (folder / "config").mkdir()
    return folder


@contextmanager
def restored(folder: Path) -> Iterator[Callable[..., None]]:
    """Gives a function that appends a line to a file of the folder; in the end every file is as it was."""
    originals: dict[Path, bytes] = {}

    def append(name: str, line: str = "# edited") -> None:
        path = folder / name
        originals[path] = path.read_bytes()
        path.write_bytes(originals[path] + line.encode() + b"\n")

    yield append
    for path, content in originals.items():
        path.write_bytes(content)


def plain_environment() -> dict[str, str]:
    """For a process in a checkout: with its own code before that of the environment, and a table in the end."""
    given = {name: value for name, value in os.environ.items() if name != "LTPIPE_RUN"}
    return given | {"PYTHONPATH": "src", "HF_HUB_OFFLINE": "1"}


def snakemake(folder: Path, *arguments: str, timeout: float = 500) -> str:
    """Run it in a checkout to its end; gives all that it printed."""
    done = _run(folder, *arguments, timeout=timeout)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def refused(folder: Path, *arguments: str) -> list[str]:
    """Run it in a checkout, where a stage has to refuse what it is given; gives the errors of the stages."""
    done = _run(folder, *arguments)
    assert done.returncode == 1, done.stdout + done.stderr
    return re.findall(r"^\s*error: (.*)$", done.stdout + done.stderr, re.MULTILINE)


def _run(folder: Path, *arguments: str, timeout: float = 500) -> subprocess.CompletedProcess[str]:
    # As a module: an environment on top of another has no such command of its own.
    command = [sys.executable, "-P", "-m", "snakemake", "--cores", "1", "--resources", "gpu=1", *arguments]
    return subprocess.run(command, cwd=folder, env=plain_environment(), capture_output=True, text=True, timeout=timeout)


def reruns(folder: Path, *arguments: str) -> set[str]:
    """What a dry run would make: 'rule first-output' without the results folder and suffix; 'all' left out."""
    output = snakemake(folder, "--dry-run", "--quiet", "host", *arguments)
    jobs = re.findall(
        r"^(?:localrule|rule|checkpoint) (\w+):\n(?:    .*\n)*?    output: (\S+?),?(?: |\n)", output, re.MULTILINE
    )
    return {f"{rule} {Path(path).with_suffix('').as_posix().split('/', 2)[2]}" for rule, path in jobs}
