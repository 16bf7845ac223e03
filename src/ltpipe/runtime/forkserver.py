"""The process that has imported what stages import, and forks one process for each stage of a run.

It is started by the first stage of a run (`ltpipe.runtime.forked`) and lives as long as the run's process, which is
snakemake. If that ends, however it ends, all forks are stopped. If the server itself is killed, the kernel kills them.

It learns what to import: each script is loaded, not run, before its first fork, with what the modules of ltpipe list
as `IMPORTED_LATER`. What forks have imported besides, from the places where this process finds modules, is imported
before the next one. It computes nothing, starts no
threads, and keeps what forks have worked out for each other (`ltpipe.runtime.remembered`). If a library has looked at
an accelerator, which forks could then not use, each fork becomes a fresh process.
"""

import contextlib
import ctypes
import fcntl
import gc
import importlib
import json
import os
import resource
import runpy
import select
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn, TextIO

from ltpipe.runtime import remembered
from ltpipe.runtime.forked import LENGTH, LIMITS, NUMBER, STATUS, identity, lock_of

_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15
_MOST_FILES = 64
_PATIENCE = 10.0  # seconds for a request to arrive


@dataclass(frozen=True)
class Learned:
    """What a fork knows that the server does not.

    Attributes:
        modules: names of modules that it has imported.
        answers: what it has worked out (`ltpipe.runtime.remembered`).
    """

    modules: list[str] = field(default_factory=list)
    answers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def since(cls, modules: Collection[str], answers: Collection[str]) -> "Learned":
        """Return what this process knows besides these modules and answers."""
        places = tuple(f"{place}/" for place in sys.path)
        found = [name for name, module in sys.modules.items() if name not in modules]
        return cls(
            [name for name in found if _origin(sys.modules[name]).startswith(places)],
            {question: answer for question, answer in remembered.ANSWERS.items() if question not in answers},
        )

    @classmethod
    def read(cls, file: TextIO) -> "Learned":
        """Read what `write` wrote; nothing, if the fork was killed before."""
        with contextlib.suppress(ValueError):
            return cls(**json.load(file))
        return cls()

    def write(self, file: TextIO) -> None:
        """Write as JSON."""
        json.dump(asdict(self), file)


@dataclass(frozen=True, eq=False)
class Fork:
    """A stage that runs.

    Attributes:
        process: its id.
        ended: file that becomes readable when it ends.
        client: the command that waits for it.
        learned: file for a record of what it has learned.
    """

    process: int
    ended: int
    client: socket.socket
    learned: int

    def pass_on(self) -> bool:
        """Pass on a signal that the command has received; return False if the command is gone."""
        sent = self.client.recv(NUMBER.size)
        if sent:
            os.kill(self.process, NUMBER.unpack(sent)[0])
        return bool(sent)

    @property
    def files(self) -> tuple[int, int]:
        """What to wait for."""
        return self.ended, self.client.fileno()

    def finish(self) -> "Learned":
        """Tell the command how the fork ended; return what it has learned."""
        _, status = os.waitpid(self.process, 0)
        with contextlib.suppress(OSError):
            self.client.sendall(STATUS.pack(os.waitstatus_to_exitcode(status)))
        os.lseek(self.learned, 0, os.SEEK_SET)
        with open(self.learned, encoding="utf-8") as file:  # noqa: PTH123 (a number)
            learned = Learned.read(file)
        os.close(self.ended)
        self.client.close()
        return learned


class Server:
    """Serves one run.

    Args:
        path: socket to listen at.
        run: `forked.identity` of the process to live for.

    Raises:
        OSError: that process has ended.
    """

    def __init__(self, path: Path, run: str) -> None:
        process = int(run.partition("-")[0])
        self._run = os.pidfd_open(process)
        if identity(process) != run:
            raise ProcessLookupError(run)
        self._path = path
        for other in path.parent.iterdir():  # of servers that were killed
            if not _lives(other.name.partition(".")[0]):
                other.unlink(missing_ok=True)
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen(128)
        self._forks: dict[int, Fork] = {}
        self._loaded: set[str] = set()
        self._modules: list[str] = []

    def serve(self) -> None:
        """Fork until the run has ended."""
        poll, listening = select.poll(), self._listening.fileno()
        for file in (self._run, listening):
            poll.register(file, select.POLLIN)
        while True:
            # New forks come last, since their files may have numbers that are free only now.
            for file, _ in sorted(poll.poll(), key=lambda event: event[0] == listening):
                if file == self._run:
                    return
                if file == listening:
                    for number, fork in self._accept():
                        self._forks[number] = fork
                        poll.register(number, select.POLLIN)
                elif file in self._forks:
                    fork = self._forks[file]
                    over: Iterable[int] = fork.files if file == fork.ended else () if fork.pass_on() else (file,)
                    for number in self._forks.keys() & over:
                        del self._forks[number]
                        poll.unregister(number)
                    if file == fork.ended:
                        learned = fork.finish()
                        self._modules += learned.modules
                        remembered.ANSWERS.update(learned.answers)

    def close(self) -> None:
        """Stop all forks as SIGTERM stops a stage."""
        for path in (self._path, lock_of(self._path)):
            path.unlink(missing_ok=True)
        running = set(self._forks.values())
        for fork in running:
            os.kill(fork.process, signal.SIGTERM)
        for fork in running:
            fork.finish()

    def _accept(self) -> Iterator[tuple[int, Fork]]:
        """Fork for a client, if it is the user's; yield the files to wait for, each with the fork."""
        client, _ = self._listening.accept()
        client.settimeout(_PATIENCE)
        try:
            if _user_of(client) != os.getuid():
                raise PermissionError
            request, files = _received(client)
            client.settimeout(None)
            self._prepare(request["command"][0])
            fork = self._fork(client, request, files)
        except (OSError, ValueError):  # it is not the user's, or was killed before it had asked
            client.close()
        else:
            yield from ((number, fork) for number in fork.files)

    def _prepare(self, script: str) -> None:
        """Import what a script imports at its start, and what earlier forks have imported."""
        if script not in self._loaded:
            self._loaded.add(script)
            _load(script)
            own = [module for name, module in sys.modules.items() if name.startswith("ltpipe.")]
            _import(name for module in own for name in getattr(module, "IMPORTED_LATER", ()))
        _import(self._modules)
        self._modules.clear()
        gc.freeze()

    def _fork(self, client: socket.socket, request: dict[str, Any], files: list[int]) -> Fork:
        learned, server = os.memfd_create("learned"), os.getpid()
        process = os.fork()
        if process == 0:
            client.close()
            self._run_stage(request, files, learned, server)
        for file in files:
            os.close(file)
        return Fork(process, os.pidfd_open(process), client, learned)

    def _run_stage(self, request: dict[str, Any], files: list[int], learned: int, server: int) -> NoReturn:
        """Become the stage of a request; nothing of the server is left but what it has imported."""
        status = 70
        try:
            system = ctypes.CDLL(None)
            system.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            system.prctl(_PR_SET_NAME, Path(request["command"][0]).stem.encode())
            if os.getppid() != server:
                os._exit(status)
            for fork in set(self._forks.values()):
                fork.client.close()
            self._listening.close()
            _die_with(files.pop(3))
            _take_on(request, files)
            status = _status_of(request["command"], learned)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)


def _lives(run: str) -> bool:
    try:
        return identity(int(run.partition("-")[0])) == run
    except (OSError, ValueError):
        return False


def _user_of(client: socket.socket) -> int:
    credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return struct.unpack("3i", credentials)[1]


def _received(client: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Return a request and its open files.

    Raises:
        OSError, ValueError: it is not whole.
    """
    start, files, _, _ = socket.recv_fds(client, LENGTH.size, _MOST_FILES)
    try:
        if len(start) < LENGTH.size:
            raise ValueError("a request without its length")
        (length,) = LENGTH.unpack(start)
        return json.loads(client.recv(length, socket.MSG_WAITALL)), files
    except (OSError, ValueError):
        for file in files:
            os.close(file)
        raise


def _load(script: str) -> None:
    """Import what a script imports at its start. A script that cannot be loaded will say so in its fork."""
    with contextlib.suppress(Exception):
        runpy.run_path(script, run_name="loaded")


def _import(names: Iterable[str]) -> None:
    for name in names:
        if name not in sys.modules:
            with contextlib.suppress(Exception):
                importlib.import_module(name)
    if "numba" in sys.modules:  # what it prepares before its first kernel, in each process anew
        with contextlib.suppress(Exception):  # of a numba that has it elsewhere
            from numba.core.registry import cpu_target

            cpu_target.typing_context.refresh()
            cpu_target.target_context.refresh()


def _die_with(life: int) -> None:
    """Let the kernel kill this process as soon as nobody holds the other end of a pipe any more."""
    fcntl.fcntl(life, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(life, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(life, fcntl.F_SETFL, fcntl.fcntl(life, fcntl.F_GETFL) | os.O_ASYNC)
    os.set_inheritable(life, True)
    if select.select([life], [], [], 0)[0]:  # nothing is ever written to it
        os.kill(os.getpid(), signal.SIGKILL)


def _take_on(request: dict[str, Any], files: list[int]) -> None:
    """Take on the surroundings of the command that a stage runs for."""
    for number, file in enumerate(files[:3]):
        os.dup2(file, number)
        os.close(file)
    for file in files[3:]:
        os.set_inheritable(file, True)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    for limit, values in zip(LIMITS, request["limits"], strict=True):
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(limit, values)
    os.sched_setaffinity(0, request["processors"])
    with contextlib.suppress(OSError):
        os.nice(request["niceness"] - os.nice(0))
    os.umask(request["umask"])
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if _cannot_use_devices():
        os.execv(sys.executable, [sys.executable, "-P", *request["command"]])


def _cannot_use_devices() -> bool:
    """Return whether the server has looked at an accelerator: its forks could not use one."""
    torch = sys.modules.get("torch")
    return torch is not None and (torch.cuda._is_in_bad_fork() or torch.xpu._is_in_bad_fork())


def _status_of(command: list[str], learned: int) -> int:
    """Run a script as the main program of this process and return its exit status."""
    import atexit
    import threading

    before = set(sys.modules), set(remembered.ANSWERS)
    sys.argv = command
    try:
        runpy.run_path(command[0], run_name="__main__")
        status: Any = 0
    except SystemExit as end:
        status = end.code or 0
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    except BaseException:
        traceback.print_exc()
        status = 1
    if not isinstance(status, int):
        print(status, file=sys.stderr)
        status = 1
    with open(learned, "w", encoding="utf-8", closefd=False) as file:
        Learned.since(*before).write(file)
    threading._shutdown()  # type: ignore[attr-defined]  # as the interpreter ends, without taking all objects apart
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    return status & 0xFF


def _origin(module: Any) -> str:
    return getattr(getattr(module, "__spec__", None), "origin", None) or ""


if __name__ == "__main__":
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # torch can then count devices without using one
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    server = Server(Path(sys.argv[1]), sys.argv[2])
    try:
        server.serve()
    finally:
        server.close()
