"""Where the workflow's code lies, and the digest of what a script runs. Neither depends on the working directory.

In a checkout, `Snakefile`, `workflow/` and `scripts/` lie at the top and the package in `src/`. An installed package
carries them in a folder of its own.
"""

import shlex
import sys
from functools import cache
from pathlib import Path

from ltpipe.pruning.scopes import scope_named
from ltpipe.runtime.errors import UserError
from ltpipe.workflow.closure import digest, import_closure

PACKAGE = Path(__file__).parents[1]
INSTALLED = PACKAGE / "pipeline"
ROOT = INSTALLED if INSTALLED.is_dir() else PACKAGE.parents[1]
"""Folder of the Snakefile, of `workflow/`, `scripts/`, `profiles/` and `config/`."""
SCHEMA = ROOT / "workflow/schemas/config.schema.yaml"
PLACES = sorted((PACKAGE / "runtime/places").glob("*.py"))
"""Modules that find sources, which stages import by the names in the configuration."""


def check_workflow(folder: Path) -> None:
    """Refuse a Snakefile whose rules and scripts would run with the Python code of another place.

    Args:
        folder: of the Snakefile; a place that is not on this machine is no other place.

    Raises:
        UserError: it is not that of the package that Python imports.
    """
    if folder.is_dir() and folder.resolve() != ROOT.resolve():
        raise UserError(
            f"{folder}/Snakefile: this environment runs the ltpipe of {ROOT}; run {ROOT}/Snakefile, or let this one's "
            f"code come first: PYTHONPATH={folder}/src"
        )


def snakemake() -> list[str]:
    """The command that runs this workflow, for a study in any folder."""
    # The profile by its place: Snakemake takes any folder `default` for one.
    profile = ["--workflow-profile", str(ROOT / "profiles/default")]
    return [sys.executable, "-P", "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), *profile]


def shell_prefix() -> str:
    """What precedes the command of every job, with braces doubled, as `shell.prefix` takes it.

    Jobs run this code with the Python that runs snakemake, whatever the caller's PATH says. Snakemake does not record
    it, so that code that has moved reruns nothing.
    """
    variables = {"LTPIPE": str(ROOT), "LTPIPE_PACKAGE": str(PACKAGE)}
    if ROOT != INSTALLED:
        variables["PYTHONPATH"] = str(PACKAGE.parent)
    assigned = " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
    prefix = f"set -euo pipefail; export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH {assigned}; "
    return prefix.replace("{", "{{").replace("}", "}}")


@cache  # the same for every job of a rule
def code_digest(script: str, *modules: Path) -> str:
    """Digest of a script and the modules that it runs: editing one of them reruns the script's stage and what follows.

    Args:
        script: name of a file in `scripts/`.
        modules: of the package that the script finds by name, which no import statement says.
    """
    own = ROOT / "scripts" / script
    found = {path for file in (own, *modules) for path in import_closure(file, PACKAGE)}
    return digest({own, *found, *modules}, ROOT / "scripts", PACKAGE)


def criterion_module(criterion: str) -> Path:
    """The module of a criterion with a score stage."""
    return _module("scoring/criteria", criterion)


def task_module(kind: str) -> Path:
    """The module of a kind of task."""
    return _module("training/tasks", kind)


def allocation_modules(scope: str) -> list[Path]:
    """The module of a scope's allocation, for scopes that have one."""
    name = getattr(scope_named(scope), "allocation", None)
    return [_module("pruning/allocations", name)] if name else []


def _module(folder: str, name: str) -> Path:
    return PACKAGE / folder / f"{name.replace('-', '_')}.py"
