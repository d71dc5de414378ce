"""Ctrl-C as a request that a loop answers when its state is consistent, and the files that it must not leave."""

import contextlib
import os
import pathlib
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator

import jax

_JAX = str(pathlib.Path(jax.__file__).parent)
# Files of contexts `temporary` that are open.
_temporary_files: set[pathlib.Path] = set()


@contextlib.contextmanager
def deferred(notice: str, at_once: str) -> Iterator[Callable[[], bool]]:
    """A context in which the first Ctrl-C raises nothing; yields a function that returns whether there was one.

    A second Ctrl-C goes to the handler outside, which usually raises KeyboardInterrupt; while JAX compiles, it is
    ignored instead of raised (see `inside_jax`). Outside the main thread Python delivers no signals, and the function
    returns False.

    Args:
        notice: line that the first Ctrl-C prints on stderr.
        at_once: line that the second one prints.
    """
    requested = threading.Event()

    def handle(number: int, frame: types.FrameType | None) -> None:
        if not requested.is_set():
            requested.set()
            print_line(notice)
        elif outside is not signal.default_int_handler or not inside_jax(frame):
            print_line(at_once)
            if callable(outside):
                outside(number, frame)

    if threading.current_thread() is not threading.main_thread():
        yield requested.is_set
        return
    outside = signal.signal(signal.SIGINT, handle)
    try:
        yield requested.is_set
    finally:
        signal.signal(signal.SIGINT, outside)


def inside_jax(frame: types.FrameType | None) -> bool:
    """Whether a function of JAX is running: an exception that is raised while it compiles can crash the process."""
    while frame is not None:
        if frame.f_code.co_filename.startswith(_JAX):
            return True
        frame = frame.f_back
    return False


@contextlib.contextmanager
def temporary(*paths: pathlib.Path) -> Iterator[None]:
    """A context at whose end the files are removed that were not moved to their places.

    A job that Ctrl-C ends at once removes them as well, by `remove_temporary_files`.
    """
    _temporary_files.update(paths)
    try:
        yield
    finally:
        for path in paths:
            path.unlink(missing_ok=True)
        _temporary_files.difference_update(paths)


def remove_temporary_files() -> None:
    """Removes the files of all contexts `temporary`, before the process ends without leaving these."""
    for path in list(_temporary_files):
        with contextlib.suppress(OSError):
            path.unlink()


def print_line(line: str) -> None:
    """Prints on stderr from a signal handler, where Python's buffered writers may be in use."""
    with contextlib.suppress(OSError, ValueError):
        os.write(sys.stderr.fileno(), f"\n{line}\n".encode())
