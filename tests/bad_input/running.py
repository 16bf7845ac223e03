"""Stages in this process, through the same `stage.run(main)` as the scripts themselves; a few are real processes.

Importing torch and transformers takes seconds.
"""

import contextlib
import importlib.util
import io
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from ltpipe import cli
from ltpipe.runtime import stage

HANGS = 100
"""Seconds after which a stage that waits for something that never comes gets a signal, and the test fails."""

ROOT = Path(__file__).parents[2]
SCRIPTS = {path.stem: path for path in sorted((ROOT / "scripts").glob("*.py"))}


@dataclass(frozen=True)
class Ended:
    """How a script ended."""

    code: int
    out: str
    err: str


@cache
def main_of(script: str) -> Callable[..., None]:
    spec = importlib.util.spec_from_file_location(f"script_{script}", SCRIPTS[script])
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where annotations are looked up
    spec.loader.exec_module(module)
    return module.main


@contextlib.contextmanager
def fresh_logging() -> Iterator[None]:
    """Logging as a new process has it: `stage.run` then sends its messages to standard error."""
    root = logging.getLogger()
    handlers, level, strict = root.handlers[:], root.level, logging.raiseExceptions
    root.handlers[:] = []
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.raiseExceptions = strict


def _hangs(*_: object) -> None:
    raise RuntimeError(f"hangs: not ended after {HANGS} seconds")


signal.signal(signal.SIGALRM, _hangs)


def one_line(ended: Ended) -> str:
    """The line that a user is to see: alone of its kind, and no traceback around it."""
    lines = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, ended.err
    assert "Traceback" not in ended.err + ended.out
    return lines[0].removeprefix("error: ")


def call(script: str | Callable[..., None], *arguments: object) -> Ended:
    """Run a script, or a `main` of a test's own, as `python scripts/<script>.py <arguments>` would."""
    main = (cli.COMMANDS if script == "ltpipe" else main_of(script)) if isinstance(script, str) else script
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, fresh_logging():
        patch.setattr(sys, "argv", [str(script), *map(str, arguments)])
        patch.delenv("LTPIPE_LOG", raising=False)
        patch.setattr(sys, "stdin", io.StringIO())
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            signal.setitimer(signal.ITIMER_REAL, HANGS)
            try:
                stage.run(main)
            except SystemExit as exit_:
                code = exit_.code or 0
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
    return Ended(code, out.getvalue(), err.getvalue())


def processes(commands: list[list[object]]) -> list[Ended]:
    """Run real processes side by side."""
    environment = {name: value for name, value in os.environ.items() if name != "LTPIPE_LOG"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    started = [subprocess.Popen([sys.executable, *map(str, command)], **pipes) for command in commands]
    ended = [process.communicate() for process in started]
    return [Ended(process.returncode, *texts) for process, texts in zip(started, ended, strict=True)]
