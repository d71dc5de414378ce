"""Errors that a user can fix: launchers print their message as a single line and exit with status 2."""

import contextlib
import errno
import os
import pathlib
import re
from collections.abc import Iterator

REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
MAX_NAME_CHARS = 200
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)


class UserError(ValueError):
    """Bad input, with a message that says what is wrong and what to do about it."""


def local_path(path: str | os.PathLike, name: str = "") -> pathlib.Path:
    """`path` as a path of this machine.

    Raises UserError for a remote one, "gs://bucket/run", which pathlib takes for a folder "gs:". `name` is the flag
    that the path was given for, for the message.
    """
    if REMOTE.match(os.fspath(path)):
        where = f"{name} " if name else ""
        if os.fspath(path).lower().startswith(("http", "file:")):
            raise UserError(f"{where}{path}: an address is not a file; download it and give its path")
        hint = "mount the bucket (for example with gcsfuse) and give a folder of the mount"
        raise UserError(f"{where}{path}: a remote path, which jaxface cannot read or write; {hint}")
    return pathlib.Path(path)


def shortened(name: str) -> str:
    """A name for a message: the start and the end of a very long one."""
    return name if len(name) <= MAX_NAME_CHARS else f"{name[: MAX_NAME_CHARS // 2]}…{name[-MAX_NAME_CHARS // 4 :]}"


@contextlib.contextmanager
def disk_errors(path: str | os.PathLike) -> Iterator[None]:
    """Turns the error of a full, read-only or forbidden disk inside the body into a UserError about `path`."""
    try:
        yield
    except Exception as error:
        reason = _disk_reason(error)
        if reason is None:
            raise
        raise UserError(
            f"cannot write to {path}: {reason}; what was saved before is intact; "
            "make room and run the same command again"
        ) from error


def _disk_reason(error: BaseException | None) -> str | None:
    """The operating system's reason, from the chain of causes or, if a library kept only the text, from the message."""
    while error is not None:
        for code in DISK_ERRORS:
            if getattr(error, "errno", None) == code or os.strerror(code) in str(error):
                return os.strerror(code)
        error = error.__cause__ or error.__context__
    return None
