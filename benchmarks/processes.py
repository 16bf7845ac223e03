"""Processes to measure: their private memory, sampled from outside, and a way to send them commands.

Memory is `RssAnon`: pages that belong only to the process. Pages of mapped files (`RssFile`) belong to the page cache,
which the kernel reclaims whenever it needs room; they are reported separately.
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
    """Bytes of a process in memory: private ones, and pages of mapped files."""

    anonymous: int
    mapped: int

    def largest(self, other: "Resident") -> "Resident":
        """Return the field-wise maximum."""
        return Resident(max(self.anonymous, other.anonymous), max(self.mapped, other.mapped))


NOTHING = Resident(0, 0)


def resident(pid: int) -> Resident:
    """Return what a process has in memory now; nothing once it has ended."""
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
    """A completed command: its peak memory, and its seconds from start to exit."""

    peak: Resident
    seconds: float


def watch_command(arguments: Sequence[str]) -> Watched:
    """Run `python ARGUMENTS` in the repository and sample its memory 500 times a second.

    Raises:
        RuntimeError: the command failed.
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
        raise RuntimeError(f"{' '.join(arguments)} exited with status {process.returncode}: {errors[-2000:]}")
    return Watched(peak, seconds)


class Worker:
    """A process that runs a module of this package and answers each JSON line it is sent with one JSON line.

    The constructor waits for its first line, which says that it is ready or contains its only result.

    Attributes:
        first: the content of the first line.
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
        self._process.stdin.close()  # a worker exits at the end of its input
        if kind is not None:
            self._process.kill()
        self._process.wait()

    def memory(self) -> Resident:
        """Return what the process has in memory now."""
        return resident(self._process.pid)

    def ask(self, **command: Any) -> dict[str, Any]:
        """Send a command and return the answer, without sampling memory."""
        self._send(command)
        return self._answer()

    def ask_watched(self, **command: Any) -> tuple[dict[str, Any], Resident]:
        """Send a command, sample memory until the answer, and return both."""
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
            raise RuntimeError(f"a worker exited with status {self._process.wait()}; its messages are above")
        return json.loads(line)


def private_stdout() -> TextIO:
    """Return, in a worker, the stream for answers; libraries print to standard error from now on."""
    answers = sys.stdout
    sys.stdout = sys.stderr
    return answers


def answer(stream: TextIO, **content: Any) -> None:
    """Send an answer from a worker."""
    stream.write(json.dumps(content) + "\n")
    stream.flush()
