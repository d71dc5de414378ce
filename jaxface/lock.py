"""The lock of a folder that one process at a time may write to."""

import contextlib
import errno
import fcntl
import logging
import os
import pathlib
import threading
from collections.abc import Iterator
from typing import IO

import jax

from jaxface import parallel, storage
from jaxface.errors import UserError, disk_errors, is_remote

NAME = ".lock"
LOG = logging.getLogger(__name__)
# Folders that this process holds, and how often: a function that holds a folder may call another one that locks it.
_held: dict[pathlib.Path, int] = {}
_guard = threading.Lock()
# Errors of file systems that have no locks.
_UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)


@contextlib.contextmanager
def locked(folder: str | os.PathLike, purpose: str, all_hosts: bool = False) -> Iterator[None]:
    """Holds `folder`, which is created, in this context; process 0 holds it for all hosts.

    The operating system releases the lock when the process ends, however it ends. A bucket has no locks: a warning says
    so, and nothing is held.

    Args:
        folder: folder that is written to.
        purpose: what the lock is for, "trains in it", for the message of another process.
        all_hosts: all hosts of the run call this, and all raise if process 0 cannot hold the folder.

    Raises:
        UserError: another process holds the folder.
    """
    if is_remote(storage.path(folder)):
        if jax.process_index() == 0:
            LOG.warning("%s: a bucket has no locks; start only one run in this folder", folder)
        yield
        return
    path = pathlib.Path(folder).resolve()
    with _guard:
        _held[path] = _held.get(path, 0) + 1
        first = _held[path] == 1
    try:
        with _exclusive(path, folder, purpose, all_hosts) if first else contextlib.nullcontext():
            yield
    finally:
        with _guard:
            _held[path] -= 1
            if not _held[path]:
                del _held[path]


@contextlib.contextmanager
def _exclusive(path: pathlib.Path, folder: str | os.PathLike, purpose: str, all_hosts: bool) -> Iterator[None]:
    file, holder = None, ""
    if jax.process_index() == 0:
        with disk_errors(folder):
            path.mkdir(parents=True, exist_ok=True)
            file, holder = _acquire(path / NAME, purpose)
    try:
        if all_hosts and not parallel.all_hosts(not holder):
            holder = holder or "of another run holds it"
        if holder:
            raise UserError(f"{folder}: another process {holder}; wait until it has ended, or choose another folder")
        yield
    finally:
        if file is not None:
            with contextlib.suppress(OSError):
                (path / NAME).unlink()
            file.close()


def _acquire(path: pathlib.Path, purpose: str) -> tuple[IO[str] | None, str]:
    """(the locked file, ""), or (None, purpose of the process that holds it)."""
    while True:
        file = path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with file:
                file.seek(0)
                return None, file.readline().strip() or "holds it"
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            LOG.warning("%s: the file system has no locks; start only one process in this folder", path)
        if _is_current(file, path):
            break
        file.close()
    file.truncate(0)
    file.write(f"{purpose} (process {os.getpid()} of {os.uname().nodename})\n")
    file.flush()
    return file, ""


def _is_current(file: IO[str], path: pathlib.Path) -> bool:
    """Whether the open file is still that of `path`, which the previous holder removes when it ends."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
