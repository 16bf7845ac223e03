"""Files are whole or absent, whatever happens while they are written: exceptions, full disks, read-only folders."""

import fcntl
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import pytest

from ltpipe.runtime.errors import DamagedFileError, UserError
from ltpipe.runtime.files import (
    allow_open_files,
    atomic_folder,
    atomic_write,
    check_writable,
    remove,
    sha256_of,
    temporary_folder,
)
from ltpipe.runtime.jsonfiles import read_json, write_json

HISTOGRAM = Path(__file__).parents[2] / "scripts" / "histogram.py"


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- atomic_write


@pytest.mark.parametrize("old", [None, b"old"])
def test_written_whole(old, tmp_path):
    target = tmp_path / "deep" / "er" / "file"
    if old:
        target.parent.mkdir(parents=True)
        target.write_bytes(old)
    with atomic_write(target) as file:
        file.write(b"ne")
        file.flush()
        assert (target.read_bytes() if target.exists() else None) == old  # readers never see half a file
        file.write(b"w")
    assert files_in(tmp_path) == {"deep/er/file": b"new"}


def interrupted_write(target: Path, error: type[BaseException]) -> None:
    with atomic_write(target) as file:
        file.write(b"n" * 100_000)
        raise error


@pytest.mark.parametrize("old", [None, b"old"])
@pytest.mark.parametrize("error", [ValueError, OSError, MemoryError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_nothing_is_left_behind(error, old, tmp_path):
    target = tmp_path / "file"
    if old:
        target.write_bytes(old)
    with pytest.raises(error):
        interrupted_write(target, error)
    assert files_in(tmp_path) == ({"file": old} if old else {})


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_failure_at_the_end(failing, monkeypatch, tmp_path):
    """Flushing to the disk and renaming can fail too: nothing is left, and the error names the file."""

    def fail(*_):
        raise OSError(28, "No space left on device")

    (tmp_path / "file").write_bytes(b"old")
    monkeypatch.setattr(*((os, "fsync", fail) if failing == "fsync" else (Path, "replace", fail)))
    with pytest.raises(OSError, match="No space left") as caught, atomic_write(tmp_path / "file") as file:
        file.write(b"new")
    assert caught.value.filename == str(tmp_path / "file")
    assert files_in(tmp_path) == {"file": b"old"}


WRITER = (
    "import sys; from pathlib import Path; from ltpipe.runtime.files import atomic_folder, atomic_write\n"
    "path, letter = Path(sys.argv[1]), sys.argv[2].encode()\n"
    "if path.suffix:\n"
    "    with atomic_write(path) as file:\n"
    "        file.write(letter * 100_000); print(flush=True); sys.stdin.read()\n"
    "else:\n"
    "    with atomic_folder(path) as folder:\n"
    "        (folder / 'part').write_bytes(letter); print(flush=True); sys.stdin.read()\n"
)


@pytest.fixture
def writers() -> Iterator[Callable[[Path, str], list[subprocess.Popen]]]:
    """Function that starts a process a letter, each in the middle of writing the path, until its input is closed."""
    started: list[subprocess.Popen] = []

    def start(path: Path, letters: str) -> list[subprocess.Popen]:
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        each = [subprocess.Popen([sys.executable, "-c", WRITER, path, letter], **pipes) for letter in letters]
        started.extend(each)
        for writer in each:
            writer.stdout.readline()
        return each

    yield start
    for writer in started:
        writer.kill()
        writer.communicate()


def test_two_writers_do_not_meet(writers, tmp_path):
    """Processes that write the same file at the same time each have their own temporary file."""
    both = writers(tmp_path / "file.x", "ab")
    for writer in both:
        writer.communicate()
    assert files_in(tmp_path) == {"file.x": b"b" * 100_000}
    assert [writer.returncode for writer in both] == [0, 0]


def test_the_slower_of_two_writers_of_a_folder_is_told(writers, tmp_path):
    slow, fast = writers(tmp_path / "folder", "ab")
    fast.communicate()
    assert fast.returncode == 0
    assert b"UserError: " + bytes(tmp_path / "folder") + b": already exists" in slow.communicate()[1]
    assert files_in(tmp_path) == {"folder/part": b"b"}


@pytest.mark.parametrize("name", ["file.x", "folder"])
def test_a_writer_removes_what_kills_left_but_nothing_of_a_living_writer(name, writers, tmp_path):
    target = tmp_path / name
    (living,) = writers(target, "a")
    (of_living,) = tmp_path.iterdir()
    killed = writers(target, "bc")
    for writer in killed:
        writer.kill()
        writer.wait()
    assert len(list(tmp_path.iterdir())) == 3
    with suppress(ZeroDivisionError), (atomic_folder if name == "folder" else atomic_write)(target):
        assert of_living in tmp_path.iterdir()
        assert len(list(tmp_path.iterdir())) == 2
        raise ZeroDivisionError
    assert living.communicate()[1] == b""
    assert files_in(tmp_path) == ({"folder/part": b"a"} if name == "folder" else {"file.x": b"a" * 100_000})


@pytest.mark.parametrize("moment", [(Path, "mkdir"), (os, "open"), (fcntl, "flock")], ids=lambda moment: moment[1])
def test_a_writer_starts_again_if_another_takes_its_new_folder_for_stale(moment, monkeypatch, tmp_path):
    """Until its writer holds the lock, a new folder looks like one that a killed writer left."""
    parent = tmp_path / "parent"
    parent.mkdir()
    step = getattr(*moment)
    removed = []

    def then_removed(*arguments, **options):
        result = step(*arguments, **options)
        if not removed and (new := next(parent.iterdir(), None)):
            removed.append(new)
            shutil.rmtree(new)
        return result

    monkeypatch.setattr(*moment, then_removed)
    with atomic_folder(parent / "folder") as folder:
        (folder / "part").write_bytes(b"a")
    assert removed
    assert files_in(parent) == {"folder/part": b"a"}


def test_a_folder_for_the_time_being(tmp_path):
    """A writer of the target leaves it alone, and removes one that a kill left, with what is in it."""
    left = tmp_path / ".file.0a1b2c3d.tmp"
    left.mkdir()
    (left / "part").touch()
    with temporary_folder(tmp_path / "file") as folder:
        assert not left.exists()
        (folder / "part").touch()
        write_json(tmp_path / "file", {})
        assert (folder / "part").exists()
    assert list(files_in(tmp_path)) == ["file"]
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


@pytest.mark.parametrize("writing", [True, False])
def test_only_temporaries_of_the_same_target_are_removed(writing, tmp_path):
    others = [".point.b.12.tmp", ".point.1.12.tmp", ".apoint.12.tmp", "point.12.tmp", ".point.resume.12.tmp"]
    for name in [*others, ".point.12.tmp", ".point.0a1b2c3d.tmp", "point"]:
        (tmp_path / name).touch()
    if writing:
        write_json(tmp_path / "point", {})
    else:
        remove(tmp_path / "point")
    assert {path.name for path in tmp_path.iterdir()} == {*others} | ({"point"} if writing else set())


def test_a_temporary_that_is_taken_for_stale_before_it_is_locked(monkeypatch, tmp_path):
    """Its writer begins again."""
    taken = []

    def flock(*_):
        if not taken:
            taken.extend(tmp_path.iterdir())
            taken[0].unlink()

    monkeypatch.setattr(fcntl, "flock", flock)
    write_json(tmp_path / "file", {})
    assert len(taken) == 1
    assert list(files_in(tmp_path)) == ["file"]


def test_a_file_system_without_locks(monkeypatch, tmp_path):
    """Files are written, and nothing is taken for stale."""

    def flock(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    (tmp_path / ".file.12.tmp").touch()
    write_json(tmp_path / "file", {})
    assert sorted(files_in(tmp_path)) == [".file.12.tmp", "file"]


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_others_may_read_what_the_mask_of_modes_lets_them(umask, tmp_path):
    before = os.umask(umask)
    try:
        write_json(tmp_path / "file", {})
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~umask


# --- JSON


def test_json_round_trip(tmp_path):
    content = {"ü": [1, 0.1, 1e-300, None, True], "a": {"b": 2**60}}
    write_json(tmp_path / "file.json", content)
    assert read_json(tmp_path / "file.json") == content
    assert (tmp_path / "file.json").read_text(encoding="utf-8") == json.dumps(
        content, indent=1, ensure_ascii=False
    ) + "\n"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), {1, 2}])
def test_json_that_is_none(value, tmp_path):
    write_json(tmp_path / "file.json", {"a": 1})
    with pytest.raises((ValueError, TypeError)):
        write_json(tmp_path / "file.json", {"a": value})
    assert read_json(tmp_path / "file.json") == {"a": 1}
    assert list(files_in(tmp_path)) == ["file.json"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not valid JSON"),
        (b'{"a": 1', "not valid JSON"),
        (b'{"a": 1} x', "not valid JSON"),
        (b"\0\0\0", "not valid JSON"),
        (b'{"a": "\xff"}', "not valid JSON"),
        (b"[1]", "contains a JSON list, expected an object"),
        (b"17", "contains a JSON int"),
        (b"null", "contains a JSON NoneType"),
    ],
)
def test_damaged_json(content, words, tmp_path):
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(DamagedFileError) as caught:
        read_json(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_absent_json(tmp_path):
    with pytest.raises(UserError, match=r"absent\.json: no such file"):
        read_json(tmp_path / "absent.json")


def test_sha256(tmp_path):
    content = os.urandom(3_000_000)
    (tmp_path / "file").write_bytes(content)
    assert sha256_of(tmp_path / "file") == sha256(content).hexdigest()


# --- disks that take no more


@pytest.fixture
def mounted(tmp_path) -> Iterator[Callable[..., Path]]:
    """Function that mounts a small file system in memory, if this process may."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    folders: list[Path] = []

    def mount(size: str) -> Path:
        folder = tmp_path / f"disk-{len(folders)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"mounting is not permitted here: {done.stderr.strip()}")
        folders.append(folder)
        return folder

    yield mount
    for folder in folders:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def count_histogram(checkpoint: Path, output: Path, log: Path | None = None) -> tuple[int, list[str]]:
    """Run the cheapest script that writes more than a few kilobytes: exit code and lines on standard error."""
    environment = {name: value for name, value in os.environ.items() if name != "LTPIPE_LOG"}
    command = [sys.executable, str(HISTOGRAM), "--criterion", "magnitude", "--threads", "1"]
    done = subprocess.run(
        [*command, "--checkpoint", str(checkpoint), "--output", str(output)],
        env=environment | ({"LTPIPE_LOG": str(log)} if log else {}),
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr.splitlines()


def test_full_disk(mounted, canonical_folder, tmp_path):
    """One line that names the file, no part of it, and what was there before."""
    checkpoint, disk = canonical_folder("llama"), mounted("16k")
    output = disk / "counts" / "llama.safetensors"
    output.parent.mkdir()
    output.write_bytes(b"old")
    assert count_histogram(checkpoint, output) == (
        1,
        [f"error: {output}: the disk is full; free some space and run again"],
    )
    assert files_in(disk) == {"counts/llama.safetensors": b"old"}
    # it is the space: the same command succeeds elsewhere
    code, lines = count_histogram(checkpoint, tmp_path / "counts.safetensors")
    assert (code, len(lines)) == (0, 1)
    assert (tmp_path / "counts.safetensors").stat().st_size > 16 * 1024


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 512)


def test_full_disk_with_the_log_on_it(mounted, canonical_folder):
    """A log that cannot be written changes neither the message nor the exit code."""
    disk = mounted("16k")
    (disk / "log").touch()
    with pytest.raises(OSError, match="No space"):
        fill(disk / "filler")
    output = disk / "counts.safetensors"
    code, lines = count_histogram(canonical_folder("llama"), output, disk / "log")
    assert (code, lines) == (1, [f"error: {output}: the disk is full; free some space and run again"])
    assert sorted(files_in(disk)) == ["filler", "log"]


@pytest.mark.parametrize("where", ["output", "log"])
def test_read_only_folder(where, request, canonical_folder, tmp_path):
    """chmod does not bind root, a file system that is mounted read-only does."""
    if os.geteuid() == 0:
        folder = request.getfixturevalue("mounted")("16k")
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    else:
        folder = tmp_path / "locked"
        folder.mkdir(mode=0o555)
    free = tmp_path / "free"
    output = (folder if where == "output" else free) / "results" / "counts.safetensors"
    log = (folder if where == "log" else free) / "logs" / "counts.log"
    code, lines = count_histogram(canonical_folder("llama"), output, log)
    assert (code, len(lines)) == (1, 1)
    assert lines[0].startswith(f"error: {folder}/{'results' if where == 'output' else 'logs'}: ")
    assert ("read-only" if os.geteuid() == 0 else "permission denied") in lines[0]
    assert files_in(folder) == {}
    # the message is in the log too, if there is one
    assert files_in(free) == ({"logs/counts.log": lines[0].encode() + b"\n"} if where == "output" else {})


def test_folders_that_can_be_written_to(mounted, tmp_path):
    disk = mounted("16k")
    check_writable(tmp_path / "new" / "results")
    check_writable(disk / "results")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    for folder in (disk, disk / "results", disk / "new" / "results"):
        with pytest.raises(UserError, match=f"{disk}: cannot be written to"):
            check_writable(folder)


def test_as_many_files_as_wanted_may_be_open_or_it_is_said(monkeypatch):
    asked = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: asked.append(limits))
    allow_open_files(100)
    assert asked == []
    allow_open_files(2000)
    assert asked == [(2256, 4096)]
    with pytest.raises(UserError, match=r"5000 files at a time: the system allows 4096"):
        allow_open_files(5000)
