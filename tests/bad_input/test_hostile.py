"""A whole sweep whose sources have the worst of names, run for real in a shell; and what it leaves outside results."""

import subprocess
from pathlib import Path

import pytest
import yaml
from checkouts import SNAKEMAKE, checkout, plain_environment
from tiny import save_tiny

from ltpipe.runtime.errors import UserError
from ltpipe.runtime.sources import Source

MODEL = 'it\'s "a" $(touch pwned1);touch pwned2;`touch pwned3` & | > pwned4 $HOME * é 模 \\'
TEXTS = "-- texts\nof two lines $(touch pwned5) `touch pwned9`"
PATTERN = "**/[!$]*(a)*.txt"
PREPARED = "results/sequences/m/d.safetensors"
SEPARATOR = "--- $(touch pwned6) {sep} '\"\n"


def listed(folder: Path) -> set[str]:
    """Every file and folder but results and Snakemake's own."""
    own = ("results", ".snakemake")
    paths = (path.relative_to(folder) for path in folder.rglob("*"))
    return {str(path) for path in paths if path.parts[0] not in own and "__pycache__" not in path.parts}


@pytest.fixture(scope="module", params=[PREPARED, pytest.param("all", marks=pytest.mark.slow)])
def finished(tmp_path_factory, request):
    """A checkout in a folder of an odd name, after a run of a hostile configuration; home and temporary folder too."""
    root = tmp_path_factory.mktemp("hostile")
    folder = checkout(root / "it's a $(touch pwned0) folder")
    save_tiny("llama", folder / "models" / MODEL)
    (folder / TEXTS).mkdir()
    (folder / TEXTS / "words (a) 'b'.txt").write_text(" ".join(f"w{number % 90}" for number in range(400)))
    config = {
        "models": {"m": {"source": f"../models/{MODEL}", "prunable": {"exclude": ["*up[_]proj*", "*layers.?.mlp.d*"]}}},
        "data": {
            "d": {"source": f"../{TEXTS}", "files": PATTERN, "separator": SEPARATOR, "field": "-- $(touch pwned8) {f}"}
        },
        "grid": {"criteria": ["magnitude"], "sparsities": [0.5]},
        "evaluate": {"sequence_length": 16, "num_sequences": 4},
    }
    (folder / "config/config.yaml").write_text(yaml.safe_dump(config))
    home, temporary = root / "home", root / "tmp"
    home.mkdir()
    temporary.mkdir()
    before = listed(folder)
    environment = plain_environment() | {"HOME": str(home), "TMPDIR": str(temporary)}
    environment = {name: value for name, value in environment.items() if not name.startswith("XDG_")}
    command = [SNAKEMAKE, request.param, "--cores", "1", "--resources", "gpu=1"]
    if request.param != "all":  # what the other rules are told is looked at all the same
        subprocess.run([SNAKEMAKE, "all", "--dry-run"], cwd=folder, env=environment, check=True, timeout=500)
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, before, home, temporary


def test_nothing_of_a_configuration_is_run_by_a_shell(finished):
    folder, *_ = finished
    assert [path.name for path in folder.parent.rglob("pwned*")] == []
    assert (folder / PREPARED).is_file()


def test_nothing_is_written_outside_the_results(finished):
    folder, before, *_ = finished
    assert listed(folder) == before


def test_home_and_temporary_folder_stay_without_files(finished):
    """Snakemake itself makes folders for its sources, and empties them."""
    *_, home, temporary = finished
    assert [path for path in (*home.rglob("*"), *temporary.rglob("*")) if not path.is_dir()] == []


@pytest.mark.parametrize("name", ["{model}", "a{b", "}", "{0}"])
def test_a_brace_in_a_name_is_refused_in_one_line(name, tmp_path):
    """Snakemake would take it for a wildcard."""
    (tmp_path / f"{name}.txt").write_text("w1")
    for source in (tmp_path, tmp_path / f"{name}.txt"):
        with pytest.raises(UserError, match=r"data\.d.source: .* has a brace in its name, .* rename it"):
            Source(str(source), "data.d.source").files(".txt")


REFUSED = {
    "brace": ({"data": {"d": {"source": "{d}.txt"}}}, "data.d.source: '{d}.txt' has a brace in its name"),
    "twice": ("threads: 1\nthreads: 2\n", "c.yaml: not YAML (the key 'threads' appears twice"),
    "program": ("__use_yte__: true\nthreads: ?1+1\n", "c.yaml: the key __use_yte__ turns the file into a program"),
    "unknown": ("zork: 1\n", "configuration: unknown key 'zork'"),
}


@pytest.mark.parametrize(
    "case", [pytest.param(name, marks=() if name == "brace" else pytest.mark.slow) for name in REFUSED]
)
def test_snakemake_ends_in_one_line(case, finished):
    folder, *_ = finished
    given, words = REFUSED[case]
    (folder / "{d}.txt").write_text("w1")
    if isinstance(given, dict):
        given = yaml.safe_dump(yaml.safe_load((folder / "config/config.yaml").read_text().replace("../", "")) | given)
    (folder / "c.yaml").write_text(given)
    command = [SNAKEMAKE, "--cores", "1", "--dry-run", "--configfile", "c.yaml"]
    done = subprocess.run(command, cwd=folder, env=plain_environment(), capture_output=True, text=True, timeout=100)
    (folder / "{d}.txt").unlink()
    (folder / "c.yaml").unlink()
    assert done.returncode == 1
    assert [line for line in done.stderr.splitlines() if line.startswith("error: ")] == [
        line for line in done.stderr.splitlines() if words in line
    ], done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
