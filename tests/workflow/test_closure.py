"""The import closure is what makes reruns right: it must miss nothing that a script runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ltpipe.workflow.closure import digest, import_closure, module_closure

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src/ltpipe"
SCRIPTS = sorted((ROOT / "scripts").glob("*.py"))


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_follows_imports_of_every_form(tmp_path: Path):
    root = write(
        tmp_path,
        {
            "pkg/__init__.py": "",
            "pkg/a.py": "from pkg.sub import b, something_else",
            "pkg/sub/__init__.py": "from pkg import from_init",
            "pkg/sub/b.py": "def late():\n    import pkg.c as c",
            "pkg/c.py": "import json\nif TYPE_CHECKING:\n    import pkg.unused\nelse:\n    import pkg.d",
            "pkg/d.py": "",
            "pkg/from_init.py": "",
            "pkg/unused.py": "import pkg.a",
            "pkg/sub/schema.json": "{}",
            "pkg/sub/look.css": "",
            "pkg/sub/notes.md": "",
            "script.py": "from pkg.a import x\nimport numpy",
        },
    )
    found = {path.relative_to(root).as_posix() for path in import_closure(root / "script.py", root / "pkg")}
    assert found == {
        *("pkg/__init__.py", "pkg/a.py", "pkg/sub/__init__.py", "pkg/sub/b.py", "pkg/c.py", "pkg/d.py"),
        "pkg/from_init.py",
        "pkg/sub/schema.json",
        "pkg/sub/look.css",
    }


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_holds_every_module_that_the_script_loads(script: Path):
    """What Python itself loads when the script is imported is the independent witness."""
    program = (
        f"import sys, runpy; runpy.run_path({str(script)!r});"
        "print(*(m.__file__ for n, m in sys.modules.items() if n.split('.')[0] == 'ltpipe'), sep='\\n')"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert loaded
    assert {Path(path) for path in loaded} <= set(import_closure(script, PACKAGE))


def test_mask_stage_needs_neither_model_code_nor_evaluation():
    names = {path.relative_to(PACKAGE).parts[0] for path in import_closure(ROOT / "scripts/mask.py", PACKAGE)}
    assert names == {"__init__.py", "runtime", "checkpoints", "pruning"}


def test_a_module_of_the_working_folder_comes_with_its_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, code in {
        "own.py": "import json", "package/__init__.py": "", "package/loop.py": "from package import steps",
        "package/steps.py": "import own", "package/other.py": "", "page.html": "",
    }.items():  # fmt: skip
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(code)
    assert module_closure("own") == [Path("own.py")]
    assert module_closure("package") == [Path("package/__init__.py")]
    assert module_closure("package.loop") == [Path("package", name) for name in ("__init__.py", "loop.py", "steps.py")]
    assert module_closure("json") == module_closure("a..b") == []


def test_digest_is_of_names_and_contents_alone(tmp_path):
    root = write(tmp_path / "one", {"a.py": "1", "b.py": "2"})
    a, b = root / "a.py", root / "b.py"
    before = digest([a, b], root)
    os.utime(a, (0, 0))
    assert digest([b, a], root) == before
    b.write_text("3")
    edited = digest([a, b], root)
    write(root, {"a.py": "3", "b.py": "1"})
    assert len({before, edited, digest([a, b], root), digest([a], root)}) == 4
    write(root, {"a.py": "1", "b.py": "2"})
    assert digest([a, b], root) == before, "an edit that is taken back reruns nothing"
    write(tmp_path, {"two/b.py": "2", "three/a.py": "1"})
    apart = digest([tmp_path / "three/a.py", tmp_path / "two/b.py"], tmp_path / "two", tmp_path / "three")
    assert apart == before, "code that lies elsewhere reruns nothing"
