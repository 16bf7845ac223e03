"""Turns a stage's script into a command."""

import errno
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeVar

import tyro
from tyro.constructors import PrimitiveConstructorSpec
from tyro.extras import subcommand_cli_from_dict

from ltpipe.runtime.errors import UserError
from ltpipe.runtime.memory import PrivateMemory, peak_host_bytes, reuse_freed_memory

Value = TypeVar("Value")

logger = logging.getLogger("ltpipe")

_OS_ADVICE = {
    errno.ENOSPC: "the disk is full; free some space and run again",
    errno.EDQUOT: "the disk quota is used up; free some space and run again",
    errno.EROFS: "the file system is read-only; choose another results folder",
    errno.EACCES: "permission denied; check the owner and mode of the folder",
    errno.EISDIR: "is a folder; name a file",
    errno.ENOTDIR: "lies below a file; name a folder",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    errno.ELOOP: "is a link to itself; name a file",
    errno.EEXIST: "is a file; name a folder",
}


_TERMINATED, _INTERRUPTED = 128 + signal.SIGTERM, 128 + signal.SIGINT


def say(message: str) -> None:
    """Report a stage's result, on the terminal and in its log."""
    logger.info(message)


Main = Callable[..., int | None]
"""The function of a stage. It returns its planned bytes of main memory, or None if there is no plan."""


def run(main: Main | dict[str, Main], about: str | None = None) -> None:
    """Call `main` with arguments from the command line; its signature is the command's interface.

    If `main` is several functions by name, the first argument chooses one; `about` begins their help.

    `LTPIPE_LOG` names a file that also receives every message, and the main memory that the stage used. Errors that a
    user can fix are printed as one line and end the process with status 1; any other exception keeps its traceback and
    ends it with status 70. SIGTERM ends it with one line and status 143, Ctrl-C with status 130; temporary files are
    removed.
    """
    for stop in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop, lambda number, _: sys.exit(128 + number))  # an exception, so that files are cleaned up
    reuse_freed_memory()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.raiseExceptions = False  # no traceback for a log that cannot be written
    for terminal in logging.getLogger().handlers:
        terminal.setLevel(logging.INFO)
    logger.setLevel(logging.DEBUG)
    try:
        _keep_messages(os.environ.get("LTPIPE_LOG"))
        with PrivateMemory() as memory:
            config = (tyro.conf.OmitArgPrefixes,)
            planned = (
                subcommand_cli_from_dict(main, prog="ltpipe", description=about, config=config)
                if isinstance(main, dict)
                else tyro.cli(main, config=config)
            )
        logger.debug(_peaks(memory, planned))
    except SystemExit as end:
        if end.code == _TERMINATED:
            logger.error("error: stopped by SIGTERM; run again to go on")
        if end.code == _INTERRUPTED:
            # In a pipeline, Ctrl-C stops many jobs at once; the pipeline itself reports it once.
            level = logging.DEBUG if os.environ.get("LTPIPE_LOG") else logging.ERROR
            logger.log(level, "error: stopped by Ctrl-C; run again to go on")
        raise
    except UserError as error:
        _fail(str(error))
    except Exception as error:
        advice = _OS_ADVICE.get(getattr(error, "errno", None) or 0)
        if advice is None:
            logger.exception("internal error")
            sys.exit(70)
        _fail(f"{getattr(error, 'filename', None) or 'write failed'}: {advice}")
    finally:
        logging.shutdown()


def one_word(kind: type[Value], read: Callable[[str], Value]) -> PrimitiveConstructorSpec[Value]:
    """Return an annotation: a command line gives a value of `kind` as one word, which `read` reads and `str` writes."""
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=kind.__name__.upper(),
        instance_from_str=lambda words: read(words[0]),
        is_instance=lambda value: isinstance(value, kind),
        str_from_instance=lambda value: [str(value)],
    )


def _peaks(memory: PrivateMemory, planned: int | None) -> str:
    """Return the memory that was planned for the stage's contents, and the growth of the process.

    The two differ: the process also loads libraries, about 100 MiB whatever the contents are, and its allocator leaves
    gaps.
    """
    grown = f"the process grew by {_mebi(memory.peak - memory.before)} to {_mebi(memory.peak)} MiB private"
    foreseen = "" if planned is None else f"{_mebi(planned)} MiB planned for contents; "
    return f"peak main memory: {foreseen}{grown}, libraries included, {_mebi(peak_host_bytes())} MiB with mapped files"


def _mebi(size: int) -> str:
    return f"{size / 2**20:,.0f}"


def _keep_messages(log: str | None) -> None:
    """Also send all messages to a log file, if there is one."""
    if log:
        Path(log).parent.mkdir(parents=True, exist_ok=True)
        logging.getLogger().addHandler(logging.FileHandler(log, mode="w", encoding="utf-8"))


def _fail(message: str) -> NoReturn:
    logger.error("error: %s", message)
    sys.exit(1)
