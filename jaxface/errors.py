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


def is_remote(path: str | os.PathLike) -> bool:
    """Whether `path` has a scheme, as in "gs://bucket/run"."""
    return REMOTE.match(os.fspath(path)) is not None


def local_path(path: str | os.PathLike, name: str = "") -> pathlib.Path:
    """`path` as a path of this machine.

    Raises UserError for a remote one, "gs://bucket/run", which pathlib takes for a folder "gs:". `name` is the flag
    that the path was given for, for the message.
    """
    if is_remote(path):
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
    """Turns the error of a full, read-only or forbidden disk inside the body into a UserError about `path`.

    For a remote path, whose libraries have errors of their own, any other error than a UserError.
    """
    try:
        yield
    except Exception as error:
        remote = is_remote(path) and not isinstance(error, UserError)
        reason = _first_line(error) if remote else _disk_reason(error)
        if reason is None:
            raise
        remedy = "check the bucket and the access to it" if remote else "make room"
        raise UserError(
            f"cannot write to {path}: {reason}; what was saved before is intact; "
            f"{remedy} and run the same command again"
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:MAX_NAME_CHARS]


def _disk_reason(error: BaseException | None) -> str | None:
    """The operating system's reason, from the chain of causes or, if a library kept only the text, from the message."""
    while error is not None:
        for code in DISK_ERRORS:
            if getattr(error, "errno", None) == code or os.strerror(code) in str(error):
                return os.strerror(code)
        error = error.__cause__ or error.__context__
    return None
