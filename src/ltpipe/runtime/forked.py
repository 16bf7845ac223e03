"""Runs a script in a fork of the run's server: `python -P -S …/forked.py SCRIPT ARGUMENTS …`.

A stage takes seconds to import its libraries and often a fraction of a second to compute. So the first stage of a run
starts a server that imports them once (`ltpipe.runtime.forkserver`). This command sends it what makes a process: the
arguments, environment, limits and open files. Then it waits and ends as the fork ends. To everybody else it is the
stage: it passes signals on, and if it is killed, the kernel kills the fork. That is before anybody can see this command
end: snakemake then deletes what the stage has written, and a fork that still wrote would leave half of its results.

`LTPIPE_SNAKEMAKE` names the process that the server lives for. Without it, and where no server can be started, this
command becomes the script. It imports nothing slow.
"""

import array
import contextlib
import fcntl
import json
import os
import resource
import signal
import socket
import stat
import struct
import sys
import time
from pathlib import Path

RUN = "LTPIPE_SNAKEMAKE"
LENGTH, STATUS, NUMBER = struct.Struct("!I"), struct.Struct("!i"), struct.Struct("!B")
"""What is sent: the length of a request before it, an exit status (or minus a signal), a signal to pass on."""

LIMITS = [getattr(resource, name) for name in sorted(dir(resource)) if name.startswith("RLIMIT_")]

_START_WITHIN = 60.0  # seconds


def identity(process: int) -> str:
    """Return the value of `RUN` for a process: its id and, since ids are used again, when it started.

    Raises:
        OSError: there is no such process, or no /proc.
    """
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return f"{process}-{fields[19]}"


def socket_of(run: str) -> Path:
    """Return the socket of a run's server, in a folder that only this user can reach.

    Raises:
        OSError: there is no such folder.
    """
    folder = Path(f"/tmp/ltpipe-run-{os.getuid()}")
    with contextlib.suppress(FileExistsError):
        folder.mkdir(0o700)
    state = folder.lstat()
    if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.getuid() or state.st_mode & 0o077:
        raise PermissionError(f"{folder}: other users can reach it")
    return folder / run


def lock_of(path: Path) -> Path:
    """Return the file that the command which starts a server at a socket holds locked meanwhile."""
    return path.with_name(f"{path.name}.lock")


def main(command: list[str]) -> int:
    """Run a script with its arguments; return the exit status of its fork, or die of the signal that killed it."""
    for number in (signal.SIGINT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)  # without Python's exceptions
    server = _server(os.environ.get(RUN, ""))
    if server is None:
        os.execv(sys.executable, [sys.executable, "-P", *command])
    _send(server, command)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # which kill this process while it asks
        signal.signal(number, lambda number, _: server.sendall(NUMBER.pack(number)))
    answer = server.recv(STATUS.size, socket.MSG_WAITALL)
    if len(answer) < STATUS.size:
        print("error: the process that runs the stages was killed; run again to go on", file=sys.stderr)
        return 128 + signal.SIGKILL
    (status,) = STATUS.unpack(answer)
    if status < 0:
        with contextlib.suppress(OSError):  # that of signals which no process handles
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return status


def _server(run: str) -> socket.socket | None:
    """Return a connection to the server of a run, started if there is none; None where there cannot be one."""
    if not run or not hasattr(os, "pidfd_open"):
        return None
    try:
        path = socket_of(run)
        if connection := _connected(path):
            return connection
        with lock_of(path).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            return _connected(path) or _started(path, run)
    except OSError:
        return None


def _connected(path: Path) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(path))
    except OSError:
        connection.close()
        return None
    return connection


def _started(path: Path, run: str) -> socket.socket | None:
    import subprocess  # here, since only the first stage of a run needs it

    path.unlink(missing_ok=True)
    null = subprocess.DEVNULL
    server = subprocess.Popen(
        [sys.executable, "-P", "-m", "ltpipe.runtime.forkserver", str(path), run],
        cwd="/",
        stdin=null,
        stdout=null,
        stderr=null,
        start_new_session=True,
    )
    end = time.monotonic() + _START_WITHIN
    while time.monotonic() < end and server.poll() is None:
        if connection := _connected(path):
            return connection
        time.sleep(0.01)
    return None


def _send(server: socket.socket, command: list[str]) -> None:
    life, _ = os.pipe()  # the other end is open as long as this process lives, and nowhere else
    files = [0, 1, 2, life, *(number for number in _open_files() if number > 2 and number != server.fileno())]
    mask = os.umask(0)
    os.umask(mask)
    request = {
        "command": command,
        "folder": str(Path.cwd()),
        "environment": dict(os.environ),
        "umask": mask,
        "processors": sorted(os.sched_getaffinity(0)),
        "limits": [resource.getrlimit(limit) for limit in LIMITS],
        "niceness": os.nice(0),
    }
    message = json.dumps(request).encode()
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))
    server.sendmsg([LENGTH.pack(len(message))], [rights])
    server.sendall(message)
    os.close(life)


def _open_files() -> list[int]:
    """Return the files that this process has inherited, such as locks of devices."""
    found = []
    for file in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # that of the listing
            if os.get_inheritable(int(file.name)):
                found.append(int(file.name))
    return sorted(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
