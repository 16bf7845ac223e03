"""Stages as forks of a server: to the outside they are processes of their own, and nothing outlives its run."""

import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ltpipe.runtime import forked

COMMAND = [sys.executable, "-P", "-S", forked.__file__]


class Run:
    """A run that stages belong to, and the server that they start.

    Attributes:
        process: stands for snakemake.
        environment: of the stages' commands.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process = subprocess.Popen(["sleep", "600"])
        self.name = forked.identity(self.process.pid)
        self.environment = os.environ | {forked.RUN: self.name}

    def script(self, text: str) -> Path:
        path = self.folder / f"script{len(list(self.folder.iterdir()))}.py"
        path.write_text(f"import os, sys\nif __name__ == '__main__':\n    {text}\n")
        return path

    def start(self, text: str, *arguments: str, **options: object) -> subprocess.Popen[str]:
        command = [*COMMAND, str(self.script(text)), *arguments]
        given = {"env": self.environment, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        return subprocess.Popen(command, text=True, **given)

    def done(self, text: str, *arguments: str, **options: object) -> tuple[int, str, str]:
        stage = self.start(text, *arguments, **options)
        output, errors = stage.communicate(timeout=60)
        return stage.returncode, output, errors

    @property
    def server(self) -> int:
        found = processes("ltpipe.runtime.forkserver", self.name)  # the forks are called so, too
        (process,) = (process for process in found if os.getsid(process) == process)
        return process

    def running(self, text: str) -> tuple[subprocess.Popen[str], int]:
        """A stage that says its process id and then does as told; its command, and the id."""
        stage = self.start(f"print(os.getpid(), flush=True); import time; {text}")
        assert stage.stdout
        return stage, int(stage.stdout.readline())


def processes(*words: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            said = path.read_bytes().decode().split("\0")
        except OSError:
            continue
        if all(word in said for word in words):
            found.append(int(path.parent.name))
    return found


def lives(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def soon(holds: Callable[[], bool]) -> bool:
    end = time.monotonic() + 20
    while not holds() and time.monotonic() < end:
        time.sleep(0.02)
    return holds()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    if not hasattr(os, "pidfd_open"):
        pytest.skip("a server needs Linux; elsewhere stages start by themselves, which is tested below")
    made = Run(tmp_path)
    yield made
    made.process.kill()
    made.process.wait()
    assert soon(lambda: not processes("ltpipe.runtime.forkserver", made.name))
    assert not forked.socket_of(made.name).exists()


ENDS = {
    "pass": (0, ""),
    "sys.exit(3)": (3, ""),
    "sys.exit('no')": (1, "no\n"),
    "1 / 0": (1, "ZeroDivisionError: division by zero\n"),
    "os.kill(os.getpid(), 9)": (-9, ""),
}


def test_a_stage_ends_as_its_fork_ends(run: Run):
    for text, (status, error) in ENDS.items():
        found, output, errors = run.done(text)
        assert (found, output) == (status, ""), text
        assert errors.endswith(error), text


def test_a_stage_has_its_own_surroundings(run: Run, tmp_path: Path):
    other = tmp_path / "other"
    other.mkdir()
    says = (
        "print(sys.argv[1:], os.getcwd(), os.environ.get('WORD'), sys.stdin.read(), oct(os.umask(0)), "
        "os.sched_getaffinity(0), os.getpriority(0, 0))"
    )
    for word, folder in (("one", tmp_path), ("two", other)):
        command = ["sh", "-c", 'umask 027; exec nice -n 3 taskset -c 0 "$@"', "sh", *COMMAND]
        script = run.script(says)
        environment = run.environment | {"WORD": word}
        done = subprocess.run(
            [*command, str(script), "a b", "ü"],
            input="given",
            capture_output=True,
            text=True,
            cwd=folder,
            env=environment,
            timeout=60,
        )
        assert done.stdout.split("\n")[0] == f"['a b', 'ü'] {folder} {word} given 0o27 {{0}} 3", done.stderr


def test_locks_that_a_command_has_inherited_are_held_until_its_fork_ends(run: Run, tmp_path: Path):
    path = tmp_path / "lock"
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stage = run.start("import time; print(flush=True); time.sleep(600)", pass_fds=(lock.fileno(),))
        assert stage.stdout
        stage.stdout.readline()

    def free() -> bool:
        with path.open("w") as again:
            try:
                fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    assert not free()
    stage.kill()
    assert soon(free)
    assert stage.communicate()


def test_what_forks_import_is_imported_once(run: Run):
    says = "before = 'colorsys' in sys.modules; import colorsys; print(before)"
    assert [run.done(says)[1] for _ in range(2)] == ["False\n", "True\n"]


def test_what_a_fork_works_out_later_ones_need_not(run: Run):
    says = "from ltpipe.runtime.remembered import remembered; print(remembered({'a': %s}, lambda: [%s]))"
    assert [run.done(says % pair)[1] for pair in ((1, 2), (1, 3), (4, 5))] == ["[2]\n", "[2]\n", "[5]\n"]


def test_a_fork_that_is_killed_teaches_nothing(run: Run):
    dies = "from ltpipe.runtime.remembered import remembered; remembered({}, lambda: 1); os.kill(os.getpid(), 9)"
    assert run.done(dies)[0] == -signal.SIGKILL
    says = "from ltpipe.runtime.remembered import remembered; print(remembered({}, lambda: 2))"
    assert run.done(says)[1] == "2\n"


def test_a_fork_that_could_use_no_device_becomes_a_fresh_process(run: Run):
    path = run.script("print(len(sys.orig_argv), sys.argv[1:], os.environ['WORD'])")
    looked = "import torch\ntorch.cuda._is_in_bad_fork = lambda: True\n"  # as after a look at a device
    environment = run.environment | {"WORD": "given"}

    def said() -> str:
        command = [*COMMAND, str(path), "argument"]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120).stdout

    assert said() == "6 ['argument'] given\n", "python -P -m ltpipe.runtime.forkserver SOCKET RUN"
    path.write_text(looked + path.read_text())
    other = path.rename(path.with_name("other.py"))
    path = other
    assert said() == "4 ['argument'] given\n", "python -P SCRIPT argument"


def test_stages_run_side_by_side(run: Run):
    stages = [run.running("time.sleep(600)") for _ in range(3)]
    assert all(lives(process) for _, process in stages)
    for stage, _ in stages:
        stage.kill()
        stage.communicate()
    assert soon(lambda: not any(lives(process) for _, process in stages))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_reach_the_fork(run: Run, number: signal.Signals):
    stage, _ = run.running(
        f"import signal; signal.signal({int(number)}, lambda *_: sys.exit(42)); print('on', flush=True); time.sleep(99)"
    )
    assert stage.stdout
    assert stage.stdout.readline() == "on\n"
    stage.send_signal(number)
    stage.communicate(timeout=60)
    assert stage.returncode == 42


def test_kill_of_a_command_kills_its_fork(run: Run):
    stage, process = run.running("time.sleep(600)")
    stage.kill()
    stage.communicate()
    assert soon(lambda: not lives(process))
    assert run.done("print(1)")[1] == "1\n", "the server goes on"


def test_a_command_that_dies_before_it_has_asked_disturbs_nobody(run: Run):
    stage, process = run.running("time.sleep(600)")
    server = run.server
    asking = forked.LENGTH.pack(100)
    for sent in (b"", asking[:2], asking, asking + b"{", forked.NUMBER.pack(signal.SIGTERM)):
        with socket.socket(socket.AF_UNIX) as killed:
            killed.connect(str(forked.socket_of(run.name)))
            if sent:
                socket.send_fds(killed, [sent], [0, 1, 2])
    assert run.done("print(1)")[1] == "1\n"
    assert run.server == server
    assert lives(process)
    stage.kill()
    stage.communicate()


def test_a_killed_command_is_seen_to_end_after_its_fork(run: Run, tmp_path: Path):
    """Whoever waits for the command may delete what the stage has written: nothing may be written afterwards."""
    for number in range(10):
        path = tmp_path / f"written-{number}"
        stage, _ = run.running(f"[open('{path}', 'a').close() for _ in iter(int, 1)]")
        assert soon(path.exists)
        stage.kill()
        stage.wait()
        path.unlink()
        time.sleep(0.05)
        assert not path.exists()
        stage.communicate()


def test_kill_of_the_run_ends_everything(run: Run):
    stage, process = run.running("time.sleep(600)")
    server = run.server
    run.process.kill()
    run.process.wait()
    stage.communicate(timeout=60)
    assert stage.returncode == -signal.SIGTERM
    assert soon(lambda: not lives(server) and not lives(process))


def test_kill_of_the_server_ends_its_stages_in_one_line(run: Run):
    stage, process = run.running("time.sleep(600)")
    os.kill(run.server, signal.SIGKILL)
    assert stage.communicate(timeout=60)[1] == (
        "error: the process that runs the stages was killed; run again to go on\n"
    )
    assert stage.returncode == 128 + signal.SIGKILL
    assert soon(lambda: not lives(process))
    assert run.done("print(1)")[1] == "1\n", "the next stage starts another"


@pytest.mark.parametrize("name", ["", "1-0", "999999999-1", "nonsense"])
def test_a_stage_without_a_server_starts_by_itself(tmp_path: Path, name: str):
    script = tmp_path / "script.py"
    script.write_text("import os, sys\nprint(os.getpid(), sys.argv[1:])\nsys.exit(3)\n")
    environment = os.environ | {forked.RUN: name}
    stage = subprocess.Popen([*COMMAND, str(script), "a b"], env=environment, stdout=subprocess.PIPE, text=True)
    assert stage.communicate(timeout=120)[0] == f"{stage.pid} ['a b']\n", "in the process of the command"
    assert stage.returncode == 3


class Account(int):
    """A user's number, with a folder of its own."""

    def __format__(self, _: str) -> str:
        return f"{int(self)}-of-a-test"


@pytest.mark.parametrize("what", ["private", "open", "of another user", "link"])
def test_only_a_folder_that_nobody_else_can_reach_is_used(monkeypatch: pytest.MonkeyPatch, what: str, tmp_path: Path):
    own = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: Account(own + (what == "of another user")))
    folder = Path(f"/tmp/ltpipe-run-{os.getuid()}")
    if what == "link":
        tmp_path.chmod(0o700)
        folder.symlink_to(tmp_path)
    else:
        folder.mkdir(0o755 if what == "open" else 0o700)
    try:
        if what == "private":
            assert forked.socket_of("1-1") == folder / "1-1"
        else:
            with pytest.raises(PermissionError, match="other users can reach it"):
                forked.socket_of("1-1")
    finally:
        folder.unlink() if what == "link" else folder.rmdir()
