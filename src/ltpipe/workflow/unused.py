"""Artefacts that no configuration names any more: those of settings that have been changed, added and removed again."""

import os
import re
import subprocess
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ltpipe.runtime.errors import UserError
from ltpipe.workflow import grid
from ltpipe.workflow.code import snakemake
from ltpipe.workflow.configfile import read_config

_RESULTS = Path("results")
_BESIDE = (".sha256", ".resume")
"""What stages write beside an artefact, and Snakemake does not know of."""

_FOLDERS = (grid.CHECKPOINT, grid.SMALLER, grid.TABLES)
_WHOLE = (grid.REPORT, grid.PLAN)
"""Folders whose files come and go together: each new report takes the place of the one before."""


@dataclass(frozen=True)
class Unused:
    """A file that is an artefact and that no configuration names.

    Attributes:
        path: relative to the working folder.
        size: bytes.
    """

    path: Path
    size: int


def unused_artefacts(configs: Iterable[Path]) -> list[Unused]:
    """The artefacts in the working folder that none of some configurations names, by path.

    Snakemake itself says what a configuration names, refined sparsities included. What is asked for by name only, a
    physically smaller checkpoint, belongs to its mask. Anything that is not named as an artefact of ltpipe is left out.

    Raises:
        UserError: Snakemake is at work in this folder, or cannot read a configuration.
    """
    locks = Path(".snakemake/locks")
    if locks.is_dir() and any(locks.iterdir()):
        raise UserError(
            f"{locks.absolute()}: Snakemake is running here, or was killed; wait for it, or run snakemake --unlock"
        )
    named = {file for config in configs for file in named_files(config)}
    return [Unused(path, path.stat().st_size) for path in sorted(_artefacts()) if not _belongs(path.as_posix(), named)]


def named_files(config: Path) -> set[str]:
    """Every output of a configuration's jobs, whether it is there or not.

    Raises:
        UserError: Snakemake cannot read it.
    """
    read_config(config)  # says what is wrong better than Snakemake does
    command = [*snakemake(), "--cores", "1", "--summary", "--configfile", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    head, *rows = done.stdout.splitlines() or [""]
    columns = head.split("\t")
    if done.returncode or "output_file" not in columns:
        said = done.stderr.strip().splitlines() or ["no word"]
        reason = next((line for line in said if line.startswith("error: ")), said[-1]).removeprefix("error: ")
        raise UserError(f"{config}: what it names cannot be listed ({reason}); nothing was deleted")
    return {row.split("\t")[columns.index("output_file")] for row in rows}


def delete(files: Iterable[Unused]) -> None:
    """Delete files, and the folders that are empty then."""
    for file in files:
        file.path.unlink(missing_ok=True)
        with suppress(OSError):  # not empty
            for folder in file.path.parents:
                if folder == _RESULTS:
                    break
                folder.rmdir()


def _artefacts() -> Iterator[Path]:
    """Files below the results folder that are named like artefacts; links are none of ours."""
    pattern = re.compile("|".join(_patterns()))
    for folder, _, files in os.walk(_RESULTS):
        for file in files:
            path = Path(folder, file)
            if pattern.fullmatch(_without_suffix(path.as_posix())) and not path.is_symlink():
                yield path


def _patterns() -> Iterator[str]:
    """Regular expressions of the names of artefacts, from the names of the grid."""
    names = (value for name, value in vars(grid).items() if name.isupper() and name[0] != "_")
    for pattern in names:
        if isinstance(pattern, str) and pattern.startswith(f"{_RESULTS}/") and pattern not in _WHOLE:
            file = "/[^/]+" if pattern in _FOLDERS else ""
            named = re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(pattern))
            yield rf"{named}{file}(?:\.(?:json|csv|parquet|safetensors))?"


def _belongs(path: str, named: Collection[str]) -> bool:
    """Whether an artefact is named, or goes with one that is."""
    path = _without_suffix(path)
    smaller = re.match(r"results/smaller/(.+)/[^/]+$", path)
    owner = f"results/masks/{smaller[1]}.safetensors" if smaller else path
    return owner in named


def _without_suffix(path: str) -> str:
    for suffix in _BESIDE:
        path = path.removesuffix(suffix)
    return path
