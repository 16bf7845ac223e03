"""The provenance of results."""

import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ltpipe.runtime.remembered import remembered

_CODE = (":/src", ":/scripts", ":/workflow")  # of the clone
_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "numba", "snakemake")


def provenance(inputs: Mapping[str, str], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return an artefact's provenance: versions, git commit, machine, time, input hashes and settings."""
    return {
        **remembered({"provenance of": "versions and machine"}, _versions),
        "git_commit": _git_commit(),  # not remembered: the code may change during a run
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "inputs": dict(inputs),
        "settings": dict(settings),
    }


def _versions() -> dict[str, Any]:
    import ltpipe

    return {
        "ltpipe": ltpipe.__version__,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "machine": f"{platform.system()} {platform.machine()}",
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """Return the commit of the running code; None outside a git clone, and in a clone of other code.

    It ends with `+changes` if tracked files differ from it or the clone has untracked code.
    """
    source = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(source), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        added = git("ls-files", "--others", "--exclude-standard", *_CODE)
        commit, _ = git("rev-parse", "HEAD", f"HEAD:./{Path(__file__).name}").split()
        return commit + ("+changes" if changed or added else "")
    except (OSError, subprocess.SubprocessError):
        return None
