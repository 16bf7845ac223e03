"""Artefacts that no configuration names any more, left by settings that have been changed or removed."""

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
"""Suffixes of files that stages write beside an artefact and Snakemake does not know."""

_FOLDERS = (grid.CHECKPOINT, grid.SMALLER, grid.TABLES)
_WHOLE = (grid.REPORT, grid.PLAN)
"""Folders whose files come and go together: each new report replaces the previous one."""


@dataclass(frozen=True)
class Unused:
    """An artefact that no configuration names.

    Attributes:
        path: path relative to the working folder.
        size: size in bytes.
    """

    path: Path
    size: int


def unused_artefacts(configs: Iterable[Path]) -> list[Unused]:
    """Return the artefacts in the working folder that none of the configurations names, sorted by path.

    Snakemake lists what a configuration names, including refined sparsities. A physically smaller checkpoint,
    which is made only on request, belongs to its mask. Files that are not named like ltpipe's artefacts are ignored.

    Raises:
        UserError: Snakemake is running in this folder, or cannot read a configuration.
    """
    locks = Path(".snakemake/locks")
    if locks.is_dir() and any(locks.iterdir()):
        raise UserError(
            f"{locks.absolute()}: Snakemake is running here, or was killed; wait for it, or run snakemake --unlock"
        )
    named = {file for config in configs for file in named_files(config)}
    return [Unused(path, path.stat().st_size) for path in sorted(_artefacts()) if not _belongs(path.as_posix(), named)]


def named_files(config: Path) -> set[str]:
    """Return every output of a configuration's jobs, whether it exists or not.

    Raises:
        UserError: Snakemake cannot read the configuration.
    """
    read_config(config)  # its errors are clearer than Snakemake's
    command = [*snakemake(), "--cores", "1", "--summary", "--configfile", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    head, *rows = done.stdout.splitlines() or [""]
    columns = head.split("\t")
    if done.returncode or "output_file" not in columns:
        said = done.stderr.strip().splitlines() or ["no message"]
        reason = next((line for line in said if line.startswith("error: ")), said[-1]).removeprefix("error: ")
        raise UserError(f"{config}: cannot list the artefacts that it names ({reason}); fix it, nothing was deleted")
    return {row.split("\t")[columns.index("output_file")] for row in rows}


def delete(files: Iterable[Unused]) -> None:
    """Delete files and the folders that this leaves empty."""
    for file in files:
        file.path.unlink(missing_ok=True)
        with suppress(OSError):  # not empty
            for folder in file.path.parents:
                if folder == _RESULTS:
                    break
                folder.rmdir()


def _artefacts() -> Iterator[Path]:
    """Yield the files below the results folder that are named like artefacts, except links."""
    pattern = re.compile("|".join(_patterns()))
    for folder, _, files in os.walk(_RESULTS):
        for file in files:
            path = Path(folder, file)
            if pattern.fullmatch(_without_suffix(path.as_posix())) and not path.is_symlink():
                yield path


def _patterns() -> Iterator[str]:
    """Yield regular expressions for artefact names, made from the patterns in `grid`."""
    names = (value for name, value in vars(grid).items() if name.isupper() and name[0] != "_")
    for pattern in names:
        if isinstance(pattern, str) and pattern.startswith(f"{_RESULTS}/") and pattern not in _WHOLE:
            file = "/[^/]+" if pattern in _FOLDERS else ""
            named = re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(pattern))
            yield rf"{named}{file}(?:\.(?:json|csv|parquet|safetensors))?"


def _belongs(path: str, named: Collection[str]) -> bool:
    """Return whether an artefact is named, or belongs to one that is."""
    path = _without_suffix(path)
    smaller = re.match(r"results/smaller/(.+)/[^/]+$", path)
    owner = f"results/masks/{smaller[1]}.safetensors" if smaller else path
    return owner in named


def _without_suffix(path: str) -> str:
    path = re.sub(r"\.resume/[^/]+$", ".resume", path)  # a folder with a file for each solved block
    for suffix in _BESIDE:
        path = path.removesuffix(suffix)
    return path
