"""The command line: what it prints, how it ends, and that its documentation names all of it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from structured import make

from ltpipe import cli

ROOT = Path(__file__).parents[1]


def command(*arguments: object) -> subprocess.CompletedProcess:
    words = [sys.executable, "-m", "ltpipe.cli", *map(str, arguments)]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)


def test_help_teaches():
    shown = command("--help").stdout
    for name in cli.COMMANDS:
        assert f"\n  ltpipe {name} " in shown, "an example"
    for code in ("0 done", "1 an input is wrong", "2 wrong usage", "70 an error of ltpipe", "143 ended by SIGTERM"):
        assert code in shown


def test_documentation_names_every_command_and_option():
    page = (ROOT / "docs/cli.md").read_text()
    for name, function in cli.COMMANDS.items():
        assert f"ltpipe {name}" in page
        for option in function.__annotations__.keys() - {"return", "file", "a", "b", "mask"}:
            assert f"`--{({'kind': 'format'}.get(option, option)).replace('_', '-')}" in page, (name, option)
    examples = re.findall(r"^  (ltpipe .*)$", cli._ABOUT, re.MULTILINE)
    assert len(examples) > len(cli.COMMANDS)


def test_a_mask_from_export_to_import(canonical_folder, tmp_path):
    folder = canonical_folder("llama")
    mask = make(folder, "layer", "0.6", tmp_path / "mask")
    exported = command("export", mask, "--format", "bool", "--output", tmp_path / "plain")
    assert exported.returncode == 0, exported.stderr
    assert exported.stderr.startswith(f"{tmp_path / 'plain'}: ")
    assert "one byte a weight" in exported.stderr
    again = command("import", tmp_path / "plain", "--checkpoint", folder, "--output", tmp_path / "again")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "again").read_bytes() == mask.read_bytes()
    compared = command("compare", mask, tmp_path / "plain", "--json")
    assert json.loads(compared.stdout)["facts"]["Jaccard"] == 1.0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("inspect", "pyproject.toml"), 1, "error: pyproject.toml: a table|error: pyproject.toml: no artefact"),
        (("inspect", "nothing"), 1, "error: nothing: no such file or folder"),
        (("inspect",), 2, "Missing from ltpipe inspect"),
        (("export", "nothing", "--format", "bool", "--output", "o"), 1, "error: nothing: no such file"),
    ],
)
def test_exit_codes(arguments, code, words):
    ended = command(*arguments)
    assert ended.returncode == code
    assert re.search(words, ended.stderr), ended.stderr
    assert "Traceback" not in ended.stderr
