"""Files that are either whole or absent."""

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

    On any exception the temporary file is removed and `path` is as it was before; what `kill -9` leaves is removed by
    the next writer of `path`. Writers of `path` at the same time do not meet: the last one to end gives its content.

    Raises:
        UserError: `path` is there and no file, a device for example, which the rename would replace.
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
        if error.filename in (None, str(temporary)):  # a write to a full disk does not say where
            error.filename = str(path)
        raise


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Make a temporary folder beside `path` to write to; on success rename it to `path`.

    On any exception it is removed with all that is in it, and `path` is as it was before; what `kill -9` leaves is
    removed by the next writer of `path`.

    Raises:
        UserError: `path` exists and is not an empty folder.
    """
    taken = UserError(f"{path}: is there already; delete it, or name an empty or new folder")
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
            raise taken from None  # by a writer that was faster


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path` for what is needed only while `path` is made; removed in the end.

    What `kill -9` leaves is removed by the next writer of `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _temporary(path, _new_folder) as (folder, _):
        yield folder


def remove(path: Path) -> None:
    """Remove a file that `atomic_write` wrote, if it is there, and what kills have left of other writes of it."""
    path.unlink(missing_ok=True)
    _remove_stale(path)


def check_writable(folder: Path) -> None:
    """Raise UserError unless files can be written to `folder`, or to the folder that it will lie in."""
    place = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(
            f"{place}: cannot be written to, the file system is read-only or the permission missing; make it writable"
        )


@contextmanager
def _temporary(path: Path, create: Callable[[Path], int]) -> Iterator[tuple[Path, int]]:
    """A new temporary file or folder beside `path`, and its descriptor; removed in the end if it is still there.

    Its writer holds a lock on it for as long as it lives, so what nobody holds was left by a kill. A process id would
    not tell: ids repeat, and hosts that share a file system each have their own.
    """
    _remove_stale(path)
    while True:
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        descriptor = create(temporary)
        with suppress(OSError):  # where a file system has no locks, nobody takes it for stale either
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if temporary.exists():
            break
        os.close(descriptor)  # another writer took it for stale before it was locked
    try:
        yield temporary, descriptor
    finally:
        _delete(temporary)
        os.close(descriptor)


def _new_file(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)


def _new_folder(path: Path) -> int:
    path.mkdir()
    return os.open(path, os.O_RDONLY)


def _remove_stale(path: Path) -> None:
    """Remove the temporary files and folders of `path` that no living writer holds."""
    name = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]+\.tmp")
    for stale in [each for each in path.parent.iterdir() if name.fullmatch(each.name)]:
        with suppress(OSError):  # gone meanwhile, of another user, or held
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
    """Refuse what cannot be read as a file: a pipe would be waited for, a device read without end.

    Raises:
        UserError: `path` is absent, or something else than a file or a link to one.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # links in a circle, names that are too long or hold a NUL
        raise UserError(f"{path}: no such file") from None
    if not stat.S_ISREG(mode):
        raise UserError(f"{path}: is {_kind(path)}; name a file")


def _kind(path: Path) -> str:
    return "a folder" if path.is_dir() else "a pipe, a device or a link to nothing"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, as a hexadecimal string."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def allow_open_files(count: int) -> None:
    """Let this process hold so many files open beside its own; most systems allow 1,024, and more if asked.

    Raises:
        UserError: the system allows fewer even so.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 256
    if hard != resource.RLIM_INFINITY and wanted > hard:
        raise UserError(
            f"{count} files at a time: the system allows {hard} (ulimit -Hn); give fewer, or raise the limit"
        )
    if soft != resource.RLIM_INFINITY and wanted > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
