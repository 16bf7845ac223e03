"""A study lives in any folder: the ways of deployment, run there with a tiny model, and nothing written to the code."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from checkouts import ROOT, SNAKEMAKE, checkout, plain_environment
from tiny import save_tiny

CONFIG = {
    "models": {"tiny": {"source": "models/tiny"}},
    "data": {"words": {"source": "texts"}},
    "grid": {"criteria": ["magnitude"], "scopes": ["layer"], "sparsities": [0.5]},
    "evaluate": {"sequence_length": 16, "num_sequences": 4},
}
MODULE = """\
configfile: "config/config.yaml"

module ltpipe:
    snakefile: "{snakefile}"
    config: config

use rule * from ltpipe{names}
"""
DEPLOYED = """\
from snakemake.utils import min_version


min_version("6.10.0")


configfile: "config/config.yaml"


# declare https://github.com/owner/ltpipe as a module
module ltpipe:
    snakefile:
        "{snakefile}"
    config:
        config


# use all rules from https://github.com/owner/ltpipe
use rule * from ltpipe
"""


def inputs(folder: Path) -> None:
    save_tiny("llama", folder / "models/tiny")
    (folder / "texts").mkdir()
    (folder / "texts/words.txt").write_text(" ".join(f"w{(7 * number) ** 2 % 93}" for number in range(500)))


def write(path: Path, config: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(config))


def files_below(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts}


def run(folder: Path, *command: object, env: dict[str, str] | None = None) -> str:
    """Run a command in a folder to its end; gives all that it printed."""
    given = (env or plain_environment()) | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(list(map(str, command)), cwd=folder, env=given, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study in a folder of its own, run from a third folder with -s, -d and --configfile, beside another study."""
    root = tmp_path_factory.mktemp("places")
    code = checkout(root / "code")
    sparsities = {"study": 0.5, "beside": 0.25}
    for name, sparsity in sparsities.items():
        (root / name).mkdir()
        inputs(root / name)
        write(root / name / "my.yaml", CONFIG | {"grid": CONFIG["grid"] | {"sparsities": [sparsity]}})
    before = files_below(code)
    environment = plain_environment() | {"PYTHONPATH": str(code / "src")}
    (root / "elsewhere").mkdir()

    def started(study: Path) -> str:
        where = ("-s", code / "Snakefile", "-d", study, "--configfile", study / "my.yaml", "--cores", 1)
        return run(root / "elsewhere", SNAKEMAKE, *where, "--resources", "gpu=1", env=environment)

    with ThreadPoolExecutor() as at_the_same_time:
        outputs = list(at_the_same_time.map(started, [root / name for name in sparsities]))
    for output, (name, sparsity) in zip(outputs, sparsities.items(), strict=True):
        assert "report: results/report/index.html" in output
        assert (root / name / "results/report/index.html").exists()
        tickets = [path.stem for path in (root / name / "results/tickets").rglob("*.json")]
        assert tickets == [str(sparsity)]
    assert files_below(code) == before, "nothing is written to the code"
    assert files_below(root / "elsewhere") == set()
    return root / "study"


def by_hand(study: Path, code: Path) -> list[object]:  # noqa: ARG001
    return [SNAKEMAKE, "-s", code / "Snakefile", "--configfile", "my.yaml"]


def below_a_folder(study: Path, code: Path) -> list[object]:
    """The configuration in a folder of the study, with sources relative to it."""
    config = CONFIG | {"models": {"tiny": {"source": "../models/tiny"}}, "data": {"words": {"source": "../texts"}}}
    write(study / "config/config.yaml", config)
    return [SNAKEMAKE, "-s", code / "Snakefile"]


def from_the_report(study: Path, code: Path) -> list[object]:  # noqa: ARG001
    """The configuration that the report hands on."""
    return [SNAKEMAKE, "-s", code / "Snakefile", "--configfile", "results/report/config.yaml"]


def module(study: Path, code: Path) -> list[object]:
    write(study / "config/config.yaml", CONFIG)
    (study / "Snakefile").write_text(MODULE.format(snakefile=code / "Snakefile", names=""))
    return [SNAKEMAKE]


def renamed_module(study: Path, code: Path) -> list[object]:
    write(study / "config/config.yaml", CONFIG)
    (study / "Snakefile").write_text(MODULE.format(snakefile=code / "Snakefile", names=" as other_*"))
    return [SNAKEMAKE]


def deployed(study: Path, code: Path) -> list[object]:
    """What `snakedeploy deploy-workflow` (0.17) writes for the catalog, with a git folder in place of github(…).

    Snakemake fetches the Snakefile alone; all else is that of the installed package.
    """
    repository = study / "fetched"
    repository.mkdir()
    shutil.copy(code / "Snakefile", repository)
    for command in (["init", "-q"], ["add", "Snakefile"], ["commit", "-qm", "x"]):
        subprocess.run(["git", "-c", "user.name=n", "-c", "user.email=e", *command], cwd=repository, check=True)
    write(study / "config/config.yaml", CONFIG)
    shutil.copytree(code / "profiles", study / "profiles")
    (study / "workflow").mkdir()
    (study / "workflow/Snakefile").write_text(DEPLOYED.format(snakefile=f"git+file:{repository}/Snakefile@HEAD"))
    return [SNAKEMAKE]


def door(study: Path, code: Path) -> list[object]:  # noqa: ARG001
    return [sys.executable, "-m", "ltpipe.cli", "run", "my.yaml", "--"]


WAYS = [by_hand, below_a_folder, from_the_report, module, renamed_module, deployed, door]


@pytest.mark.parametrize("way", WAYS)
def test_every_way_finds_the_results_of_another_and_makes_a_lost_one_again(
    way: Callable, finished: Path, tmp_path: Path
):
    """After study and code have moved, each to another place."""
    study = shutil.copytree(finished, tmp_path / "moved", copy_function=shutil.copy2)
    code = shutil.copytree(finished.parent / "code", tmp_path / "code", copy_function=shutil.copyfile)
    before = files_below(code)
    command = [*way(study, code), "--cores", "1", "--resources", "gpu=1", "--directory", study]
    environment = plain_environment() | {"PYTHONPATH": str(code / "src")}
    assert "Nothing to be done" in run(study, *command, "--dry-run", env=environment)
    ticket = Path("results/tickets/tiny/words/magnitude/layer/seed-none/0.5.json")
    was = json.loads((study / ticket).read_text())
    (study / ticket).unlink()
    run(study, *command, ticket, env=environment)
    assert json.loads((study / ticket).read_text())["loss"] == was["loss"]
    assert files_below(code) == before


def test_code_of_another_place_is_refused_in_one_line(finished: Path):
    code = finished.parent / "code"
    command = [SNAKEMAKE, "-s", code / "Snakefile", "--configfile", "my.yaml", "--cores", "1", "--dry-run"]
    done = subprocess.run(
        list(map(str, command)), cwd=finished, env=plain_environment(), capture_output=True, text=True
    )
    assert done.returncode == 1
    (error,) = [line for line in done.stderr.splitlines() if not line.startswith("Using workflow specific profile")]
    assert error.startswith(
        f"error: {code}/Snakefile: this environment runs the ltpipe of {ROOT}; run {ROOT}/Snakefile"
    )
    assert done.stdout == ""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment into which a wheel of this checkout is installed, with our dependencies."""
    root = tmp_path_factory.mktemp("wheel")
    shutil.copytree(
        ROOT, root / "source", ignore=shutil.ignore_patterns(".*", "results", "tests", "docs", "benchmarks")
    )
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    run(root, *pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", root / "source", "--wheel-dir", root)
    run(root, sys.executable, "-m", "venv", "--without-pip", "environment")
    (site,) = (root / "environment/lib").glob("python*/site-packages")
    ours = [path for path in sys.path if path.endswith("site-packages")]
    (site / "zz.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in ours))
    (wheel,) = root.glob("*.whl")
    run(
        root,
        *pip,
        "--python",
        root / "environment/bin/python",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--ignore-installed",
        wheel,
    )
    shutil.rmtree(root / "source")
    return root / "environment/bin"


@pytest.mark.slow
def test_a_wheel_and_an_empty_folder_give_a_page(installed: Path, tmp_path: Path):
    environment = {name: value for name, value in plain_environment().items() if name != "PYTHONPATH"}
    ltpipe = installed / "ltpipe"
    site = next(installed.parent.glob("lib/*/site-packages/ltpipe"))
    before = files_below(site)
    assert "pip install --no-deps" in run(tmp_path, ltpipe, "init", "default", env=environment)
    default = tmp_path / "default/config/config.yaml"
    assert default.read_bytes() == (ROOT / "config/config.yaml").read_bytes()
    again = subprocess.run([ltpipe, "init", "default"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (again.returncode, again.stderr) == (
        1,
        "error: default/config/config.yaml: already exists; edit it, or name another folder\n",
    )
    run(tmp_path / "default", ltpipe, "check", env=environment)
    assert "smollm2" in run(tmp_path, ltpipe, "run", "--directory", "default", "--", "--dry-run", env=environment)
    study = tmp_path / "own"
    study.mkdir()
    inputs(study)
    write(study / "my.yaml", CONFIG)
    command = [ltpipe, "run", "own/my.yaml", "--directory", "own"]
    assert "report: results/report/index.html" in run(tmp_path, *command, env=environment)
    assert (study / "results/report/index.html").exists()
    output = run(tmp_path, *command, env=environment)
    assert "Nothing to be done" in output
    assert "report: results/report/index.html" in output, "the table is printed where nothing ran, too"
    write(study / "my.yaml", CONFIG | {"evaluate": CONFIG["evaluate"] | {"num_sequences": "all"}})
    run(tmp_path, *command, "--", "--touch", env=environment)
    stale = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert stale.returncode == 1
    assert "made with evaluate.num_sequences 4, but the configuration asks for all" in stale.stderr
    assert files_below(site) == before
    assert {path.name for path in study.iterdir()} == {"models", "texts", "my.yaml", "results", ".snakemake"}
