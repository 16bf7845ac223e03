"""Files that are either complete or absent."""

import errno
import fcntl
import hashlib
import os
import re
import resource
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ltpipe.runtime.errors import UserError


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path`; on success flush it to disk and rename it to `path`.

    On any exception the temporary file is removed and `path` is unchanged. The next writer of `path` removes what
    `kill -9` leaves behind. Concurrent writers of `path` do not interfere: the last one to finish wins.

    Raises:
        UserError: `path` exists and is not a file but, for example, a device, which the rename would replace.
    """
    if not path.name or (os.path.lexists(path) and not path.is_file()):
        raise UserError(f"{path}: is {_kind(path)}; name a file to write")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = None
    try:
        with _temporary(path, _new_file) as (temporary, descriptor):
            with os.fdopen(descriptor, "wb", closefd=False) as file:
                yield file
                file.flush()
                os.fsync(descriptor)
            temporary.replace(path)
    except OSError as error:
        if error.filename in (None, str(temporary)):  # an error from writing to a full disk does not name the file
            error.filename = str(path)
        raise


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Make a temporary folder beside `path` to write to; on success rename it to `path`.

    On any exception the folder and its content are removed and `path` is unchanged. The next writer of `path` removes
    what `kill -9` leaves behind.

    Raises:
        UserError: `path` exists and is not an empty folder.
    """
    taken = UserError(f"{path}: already exists; delete it, or name an empty or new folder")
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise taken
    path.parent.mkdir(parents=True, exist_ok=True)
    with _temporary(path, _new_folder) as (temporary, _):
        yield temporary
        try:
            temporary.rename(path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            raise taken from None  # another writer was faster


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside `path`, for scratch files while `path` is written; removed on exit.

    The next writer of `path` removes what `kill -9` leaves behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _temporary(path, _new_folder) as (folder, _):
        yield folder


def remove(path: Path) -> None:
    """Remove a file that `atomic_write` wrote, if it exists, and the remains of killed writes of it."""
    path.unlink(missing_ok=True)
    _remove_stale(path)


def check_writable(folder: Path) -> None:
    """Raise UserError unless files can be written to `folder` or, if missing, to its nearest existing parent."""
    place = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(
            f"{place}: cannot be written to: the file system is read-only or permission is missing; make it writable"
        )


@contextmanager
def _temporary(path: Path, create: Callable[[Path], int]) -> Iterator[tuple[Path, int]]:
    """Give a new temporary file or folder beside `path`, and its descriptor; removed on exit if it still exists.

    The writer holds a lock on it while it lives, so an unlocked one was left by a killed process. A process id would
    not be reliable: ids are reused, and hosts that share a file system each have their own.
    """
    _remove_stale(path)
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        descriptor = create(temporary)
        with suppress(OSError):  # without file locks, nobody treats it as stale either
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if temporary.exists():
            break
        os.close(descriptor)  # another writer removed it as stale before it was locked
    try:
        yield temporary, descriptor
    finally:
        _delete(temporary)
        os.close(descriptor)


def _new_file(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)


def _new_folder(path: Path) -> int:
    while True:
        path.mkdir()
        with suppress(FileNotFoundError):  # another writer removed it as stale before it was opened
            return os.open(path, os.O_RDONLY)


def _remove_stale(path: Path) -> None:
    """Remove the temporary files and folders of `path` that no live writer holds."""
    name = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]+\.tmp")
    for stale in [each for each in path.parent.iterdir() if name.fullmatch(each.name)]:
        with suppress(OSError):  # already removed, another user's, or held
            descriptor = os.open(stale, os.O_RDONLY if stale.is_dir() else os.O_RDWR)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _delete(stale)
            finally:
                os.close(descriptor)


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def check_file(path: Path) -> None:
    """Reject anything that is not a file: reading a pipe would block, reading a device would never end.

    Raises:
        UserError: `path` is missing, or is not a file or a link to one.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # circular links, names that are too long or contain NUL
        raise UserError(f"{path}: no such file") from None
    if not stat.S_ISREG(mode):
        raise UserError(f"{path}: is {_kind(path)}; name a file")


def _kind(path: Path) -> str:
    return "a folder" if path.is_dir() else "a pipe, a device or a link to nothing"


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content, as a hexadecimal string."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def allow_open_files(count: int) -> None:
    """Let this process open `count` files beyond its own; most systems allow 1,024 by default and more on request.

    Raises:
        UserError: the system's hard limit is too low.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 256
    if hard != resource.RLIM_INFINITY and wanted > hard:
        raise UserError(
            f"{count} files at a time: the system allows {hard} (ulimit -Hn); use fewer, or raise the limit"
        )
    if soft != resource.RLIM_INFINITY and wanted > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
