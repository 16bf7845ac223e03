"""The location of the workflow's code, and the digest of what a script runs; independent of the working directory.

In a checkout, `Snakefile`, `workflow/` and `scripts/` are at the top and the package is in `src/`. An installed package
contains them in a folder of its own.
"""

import os
import shlex
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

from ltpipe.pruning.scopes import scope_named
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.forked import RUN, identity
from ltpipe.workflow.closure import digest, import_closure

PACKAGE = Path(__file__).parents[1]
INSTALLED = PACKAGE / "pipeline"
ROOT = INSTALLED if INSTALLED.is_dir() else PACKAGE.parents[1]
"""Folder of the Snakefile, of `workflow/`, `scripts/`, `profiles/` and `config/`."""
PLACES = sorted((PACKAGE / "runtime/places").glob("*.py"))
"""Modules that find sources; stages import them by the names in the configuration."""


def check_workflow(folder: Path) -> None:
    """Refuse a Snakefile whose rules and scripts would run with Python code from elsewhere.

    Args:
        folder: folder of the Snakefile; one that is not on this machine is accepted.

    Raises:
        UserError: the package that Python imports is not this Snakefile's.
    """
    if folder.is_dir() and folder.resolve() != ROOT.resolve():
        raise UserError(
            f"{folder}/Snakefile: this environment runs the ltpipe of {ROOT}; run {ROOT}/Snakefile, or put this one's "
            f"code first with PYTHONPATH={folder}/src"
        )


def snakemake() -> list[str]:
    """Return the command that runs this workflow, for a study in any folder."""
    # A full path, since Snakemake would take any folder named `default` as the profile.
    profile = ["--workflow-profile", str(ROOT / "profiles/default")]
    return [sys.executable, "-P", "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), *profile]


def shell_prefix(jobs_here: bool) -> str:
    """Return the prefix of every job's command, with braces doubled, as `shell.prefix` takes it.

    Jobs run this code with the Python that runs snakemake, whatever the caller's PATH says. Snakemake does not record
    the prefix, so moving the code reruns nothing.

    Args:
        jobs_here: whether this process runs the jobs, rather than a cluster's node one of them. Then they are forks of
            one server, which lives as long as this process.
    """
    variables = {"LTPIPE": str(ROOT), "LTPIPE_PACKAGE": str(PACKAGE)}
    if jobs_here:
        with suppress(OSError):  # of systems without /proc
            variables[RUN] = identity(os.getpid())
    if ROOT != INSTALLED:
        variables["PYTHONPATH"] = str(PACKAGE.parent)
    assigned = " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
    prefix = f"set -euo pipefail; export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH {assigned}; "
    return prefix.replace("{", "{{").replace("}", "}}")


@cache  # the same for every job of a rule
def code_digest(script: str, *modules: Path) -> str:
    """Return the digest of a script and the modules it runs: editing one reruns the script's stage and what follows.

    Args:
        script: stem of a file in `scripts/`.
        modules: further modules of the package that the script imports by name, without an import statement.
    """
    own = ROOT / "scripts" / f"{script}.py"
    found = {path for file in (own, *modules) for path in import_closure(file, PACKAGE)}
    return digest({own, *found, *modules}, ROOT / "scripts", PACKAGE)


def criterion_module(criterion: str) -> Path:
    """Return the module of a criterion with a score stage."""
    return _module("scoring/criteria", criterion)


def solver_module(solver: str) -> Path:
    """Return the module of a solver."""
    return _module("solving/solvers", solver)


def task_module(kind: str) -> Path:
    """Return the module of a kind of task."""
    return _module("training/tasks", kind)


def allocation_modules(scope: str) -> list[Path]:
    """Return the module of a scope's allocation, for scopes that have one."""
    name = getattr(scope_named(scope), "allocation", None)
    return [_module("pruning/allocations", name)] if name else []


def _module(folder: str, name: str) -> Path:
    return PACKAGE / folder / f"{name.replace('-', '_')}.py"
