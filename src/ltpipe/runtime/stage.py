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
    errno.EEXIST: "is a file; name a folder",
}


def say(message: str) -> None:
    """Tell the user what a stage found, on the terminal and in its log."""
    logger.info(message)


def run(main: Callable[..., None] | dict[str, Callable[..., None]]) -> None:
    """Call `main` with arguments from the command line; its signature is the command's interface.

    Of several functions by name, the first argument chooses one.

    `LTPIPE_LOG` names a file that receives every message too, and the peak of main memory. Errors that a user can
    mend are printed as one line and end the process with status 1; any other exception keeps its traceback and ends
    it with status 70.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # an exception, so that files are tidied
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.raiseExceptions = False  # a log that cannot be written is no reason for a traceback
    for terminal in logging.getLogger().handlers:
        terminal.setLevel(logging.INFO)
    logger.setLevel(logging.DEBUG)
    try:
        _keep_messages(os.environ.get("LTPIPE_LOG"))
        with PrivateMemory() as memory:
            if isinstance(main, dict):
                subcommand_cli_from_dict(main, prog="ltpipe", config=(tyro.conf.OmitArgPrefixes,))
            else:
                tyro.cli(main, config=(tyro.conf.OmitArgPrefixes,))
        private, resident = memory.peak / 2**20, peak_host_bytes() / 2**20
        logger.debug("peak main memory: %.0f MiB private, %.0f MiB with pages of mapped files", private, resident)
    except UserError as error:
        _fail(str(error))
    except Exception as error:
        advice = _OS_ADVICE.get(getattr(error, "errno", None))
        if advice is None:
            logger.exception("internal error")
            sys.exit(70)
        _fail(f"{getattr(error, 'filename', None) or 'write failed'}: {advice}")
    finally:
        logging.shutdown()


def _keep_messages(log: str | None) -> None:
    """Send all messages to a log file too, if asked for."""
    if log:
        Path(log).parent.mkdir(parents=True, exist_ok=True)
        logging.getLogger().addHandler(logging.FileHandler(log, mode="w", encoding="utf-8"))


def _fail(message: str) -> NoReturn:
    logger.error("error: %s", message)
    sys.exit(1)
