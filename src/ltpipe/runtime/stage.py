"""The one way in which a stage's script becomes a command."""

import errno
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import tyro
from tyro.extras import subcommand_cli_from_dict

from ltpipe.runtime.errors import UserError
from ltpipe.runtime.memory import PrivateMemory, peak_host_bytes

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
    """Tell the user what a stage found, on the terminal and in its log."""
    logger.info(message)


Main = Callable[..., int | None]
"""The function of a stage. It returns the bytes of main memory that it was foreseen to take, if anyone foresaw them."""


def run(main: Main | dict[str, Main], about: str | None = None) -> None:
    """Call `main` with arguments from the command line; its signature is the command's interface.

    Of several functions by name, the first argument chooses one; `about` is what their help begins with.

    `LTPIPE_LOG` names a file that receives every message too, and what the stage took of main memory.
    Errors that a user can mend are printed as one line and end the process with status 1; any other exception keeps
    its traceback and ends it with status 70. SIGTERM ends it with status 143 and one line, Ctrl-C with status 130, its
    temporary files removed.
    """
    for stop in (signal.SIGTERM, signal.SIGINT):
        signal.signal(stop, lambda number, _: sys.exit(128 + number))  # an exception, so that files are tidied
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.raiseExceptions = False  # a log that cannot be written is no reason for a traceback
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
            # Of the jobs of a pipeline Ctrl-C stops many at once; the pipeline says it, once.
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


def _peaks(memory: PrivateMemory, planned: int | None) -> str:
    """What the stage was to take for its contents, and by how much the process grew.

    The two are not alike: the process also loads libraries on the way, and its allocator keeps gaps. What it loads is
    some 100 MiB whatever the contents are.
    """
    grown = f"the process grew by {_mebi(memory.peak - memory.before)} to {_mebi(memory.peak)} MiB private"
    foreseen = "" if planned is None else f"{_mebi(planned)} MiB planned for contents; "
    return f"peak main memory: {foreseen}{grown}, libraries included, {_mebi(peak_host_bytes())} MiB with mapped files"


def _mebi(size: int) -> str:
    return f"{size / 2**20:,.0f}"


def _keep_messages(log: str | None) -> None:
    """Send all messages to a log file too, if asked for."""
    if log:
        Path(log).parent.mkdir(parents=True, exist_ok=True)
        logging.getLogger().addHandler(logging.FileHandler(log, mode="w", encoding="utf-8"))


def _fail(message: str) -> NoReturn:
    logger.error("error: %s", message)
    sys.exit(1)
