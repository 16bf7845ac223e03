"""Processes to measure: their private memory, seen from outside, and a way to tell them when to start.

Memory is `RssAnon`: pages that belong to the process alone. Pages of mapped files (`RssFile`) are the page cache's,
which the kernel takes back whenever it needs room, and are reported apart.
"""

import json
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

ROOT = Path(__file__).resolve().parent.parent
MB = 1e6

_INTERVAL = 0.002


@dataclass(frozen=True)
class Resident:
    """Bytes that a process has in memory: its own, and pages of mapped files."""

    anonymous: int
    mapped: int

    def largest(self, other: "Resident") -> "Resident":
        """Field by field."""
        return Resident(max(self.anonymous, other.anonymous), max(self.mapped, other.mapped))


NOTHING = Resident(0, 0)


def resident(pid: int) -> Resident:
    """What a process has in memory now; nothing once it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return NOTHING
    sizes = {key: rest.split() for key, _, rest in (line.partition(":") for line in status.splitlines())}
    if "RssAnon" not in sizes:  # a zombie has no memory left to report
        return NOTHING
    return Resident(1024 * int(sizes["RssAnon"][0]), 1024 * int(sizes["RssFile"][0]))


@dataclass(frozen=True)
class Watched:
    """A command that ran to its end: largest memory it had, and how long it took from start to exit."""

    peak: Resident
    seconds: float


def watch_command(arguments: Sequence[str]) -> Watched:
    """Run `python ARGUMENTS` in the repository and sample its memory 500 times a second.

    Raises:
        RuntimeError: it failed.
    """
    start = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        peak = NOTHING
        try:
            while process.poll() is None:
                peak = peak.largest(resident(process.pid))
                time.sleep(_INTERVAL)
        except BaseException:
            process.kill()
            raise
        seconds = time.perf_counter() - start
        errors = process.stderr.read()
    if process.returncode:
        raise RuntimeError(f"{' '.join(arguments)} ended with status {process.returncode}: {errors[-2000:]}")
    return Watched(peak, seconds)


class Worker:
    """A process that runs a module of this package and answers one JSON line to each JSON line it is sent.

    Its first line is waited for here: it says that the process is ready, or all that there is to say.

    Attributes:
        first: what it said.
    """

    def __init__(self, module: str, options: Mapping[str, Any]) -> None:
        words = [str(word) for key, value in options.items() for word in (f"--{key}", value)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.{module}", *words],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.first = self._answer()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.stdin.close()  # a worker ends when there is nothing more to read
        if kind is not None:
            self._process.kill()
        self._process.wait()

    def memory(self) -> Resident:
        """What it has in memory now."""
        return resident(self._process.pid)

    def ask(self, **command: Any) -> dict[str, Any]:
        """Let it do something, undisturbed."""
        self._send(command)
        return self._answer()

    def ask_watched(self, **command: Any) -> tuple[dict[str, Any], Resident]:
        """Let it do something, and sample its memory meanwhile."""
        self._send(command)
        peak = self.memory()
        while not select.select([self._process.stdout], [], [], _INTERVAL)[0]:
            peak = peak.largest(self.memory())
        return self._answer(), peak.largest(self.memory())

    def _send(self, command: dict[str, Any]) -> None:
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a worker ended with status {self._process.wait()}; its messages are above")
        return json.loads(line)


def private_stdout() -> TextIO:
    """In a worker: the stream for answers. What libraries print goes to standard error from now on."""
    answers = sys.stdout
    sys.stdout = sys.stderr
    return answers


def answer(stream: TextIO, **content: Any) -> None:
    """In a worker: send an answer."""
    stream.write(json.dumps(content) + "\n")
    stream.flush()
