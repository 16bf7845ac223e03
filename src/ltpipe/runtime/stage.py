"""The one way in which a stage's script becomes a command."""

import contextlib
import errno
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import tyro

from ltpipe.runtime.errors import UserError

logger = logging.getLogger("ltpipe")

_OS_ADVICE = {
    errno.ENOSPC: "the disk is full; free some space and run again",
    errno.EDQUOT: "the disk quota is used up; free some space and run again",
    errno.EROFS: "the file system is read-only; choose another results folder",
    errno.EACCES: "permission denied; check the owner and mode of the folder",
    errno.EISDIR: "is a folder; name a file",
    errno.ENOTDIR: "lies below a file; name a folder",
    errno.EEXIST: "is a file; name a folder",
}


def say(message: str) -> None:
    """Tell the user what a stage found, on the terminal and in its log."""
    logger.info(message)


def run(main: Callable[..., None]) -> None:
    """Call `main` with arguments from the command line; its signature is the command's interface.

    `LTPIPE_LOG` names a file that receives every message too. Errors that a user can mend are printed as one line
    and end the process with status 1; any other exception keeps its traceback and ends it with status 70.
    """
    with _messages(os.environ.get("LTPIPE_LOG")):
        try:
            tyro.cli(main, config=(tyro.conf.OmitArgPrefixes,))
        except UserError as error:
            _fail(str(error))
        except Exception as error:
            advice = _OS_ADVICE.get(getattr(error, "errno", None))
            if advice is None:
                logger.exception("internal error")
                sys.exit(70)
            _fail(f"{getattr(error, 'filename', None) or 'write failed'}: {advice}")


@contextlib.contextmanager
def _messages(log: str | None) -> Iterator[None]:
    """Send ltpipe's messages to the terminal and, if asked for, to a log file."""
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    if log:
        Path(log).parent.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(log, mode="w", encoding="utf-8"))
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=handlers)
    logging.getLogger().setLevel(logging.WARNING)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logging.shutdown()


def _fail(message: str) -> NoReturn:
    logger.error("error: %s", " ".join(message.split()))
    sys.exit(1)
