"""The commit that a number is said to come from."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROVENANCE = Path(__file__).parents[2] / "src/ltpipe/runtime/provenance.py"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A repository with a copy of the module, committed."""
    place = tmp_path / "src/ltpipe/runtime"
    place.mkdir(parents=True)
    shutil.copy(PROVENANCE, place)
    (tmp_path / ".gitignore").write_text("__pycache__/\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "one")
    return tmp_path


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, check=True).stdout.strip()


def said(folder: Path) -> str:
    program = "import provenance; print(provenance._git_commit())"
    place = folder / "src/ltpipe/runtime"
    return subprocess.run([sys.executable, "-c", program], cwd=place, capture_output=True, text=True).stdout.strip()


def test_the_commit(clone):
    assert said(clone) == git(clone, "rev-parse", "HEAD")


@pytest.mark.parametrize("name", ["src/ltpipe/runtime/provenance.py", ".gitignore", "src/mine.py", "workflow/a.smk"])
def test_changes_and_code_that_no_commit_has_are_said(name, clone):
    (clone / name).parent.mkdir(exist_ok=True)
    with (clone / name).open("a") as file:
        file.write("# changed\n")
    assert said(clone) == git(clone, "rev-parse", "HEAD") + "+changes"


def test_a_study_of_ones_own_beside_the_code_is_no_change(clone):
    (clone / "my.yaml").touch()
    assert "+" not in said(clone)


def test_without_a_repository_there_is_no_commit(clone):
    shutil.rmtree(clone / ".git")
    assert said(clone) == "None"


def test_a_repository_of_other_code_that_it_is_installed_in_has_no_commit_of_it(clone):
    git(clone, "rm", "-rq", "--cached", ".")
    (clone / "study.yaml").touch()
    git(clone, "add", "study.yaml")
    git(clone, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "two")
    assert said(clone) == "None"
