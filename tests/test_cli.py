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


def command(*arguments: object, folder: Path = ROOT) -> subprocess.CompletedProcess:
    words = [sys.executable, "-m", "ltpipe.cli", *map(str, arguments)]
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)


def test_help_teaches():
    shown = command("--help").stdout
    for code in ("0 success", "1 invalid input", "2 wrong usage", "70 an internal error", "143 stopped by SIGTERM"):
        assert code in shown


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_of_a_command_has_an_example_that_it_understands(name, tmp_path):
    example = re.search(rf"^ +ltpipe ({name} .*)$", cli.COMMANDS[name].__doc__, re.MULTILINE)
    code = 0 if name == "init" else 1  # understood: what is wrong with the others is that there are no such files
    assert command(*example[1].split(), folder=tmp_path).returncode == code


def test_documentation_names_every_command_and_option():
    page = (ROOT / "docs/cli.md").read_text()
    positional = {"return", "file", "a", "b", "mask", "folder", "folders", "configs", "name", "report"}
    for name, function in cli.COMMANDS.items():
        assert f"ltpipe {name}" in page
        for option in function.__annotations__.keys() - positional:
            assert f"`--{({'kind': 'format', 'style': 'format'}.get(option, option)).replace('_', '-')}" in page, (
                name,
                option,
            )


def test_a_mask_from_export_to_import(canonical_folder, tmp_path, caplog, capsys):
    folder = canonical_folder("llama")
    mask = make(folder, "layer", "0.6", tmp_path / "mask")
    caplog.set_level("INFO", "ltpipe")
    cli.export(mask, output=tmp_path / "plain", kind="bool")
    cli.import_(tmp_path / "plain", checkpoint=folder, output=tmp_path / "again")
    assert [message.partition(": ")[0] for message in caplog.messages] == [
        str(tmp_path / name) for name in ("plain", "again")
    ]
    assert "one byte per weight" in caplog.messages[0]
    assert (tmp_path / "again").read_bytes() == mask.read_bytes()
    cli.compare(mask, tmp_path / "plain", json=True)
    assert json.loads(capsys.readouterr().out)["facts"]["jaccard"] == 1.0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("inspect", "pyproject.toml"), 1, "error: pyproject.toml: "),
        (("inspect",), 2, "Missing from ltpipe inspect"),
    ],
)
def test_exit_codes(arguments, code, words):
    ended = command(*arguments)
    assert ended.returncode == code
    assert re.search(words, ended.stderr), ended.stderr
    assert "Traceback" not in ended.stderr
