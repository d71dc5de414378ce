"""Damaged data of a video that the decoder concealed.

FFmpeg fills the blocks of a frame that it cannot decode from neighbouring frames, and OpenCV returns the result like
any other frame. The only sign is a message of FFmpeg on stderr. A child process therefore decodes the video a second
time, without the conversion to RGB, and its stderr tells near which frames there was one.
"""

import contextlib
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import IO

# FFmpeg's messages, as "[h264 @ 0x5595] error while decoding MB 18 12", and the start of the child's own lines: the
# time of a frame in ms, or nothing if a frame could not be read, which the reader of the video notices itself.
MESSAGE, FRAME = re.compile(rb"\[.* @ (0x)?[0-9a-fA-F]+\] "), b"@"
# Settings with which OpenCV prints FFmpeg's messages on stdout, which is buffered, or not at all.
LOG_SETTINGS = ("OPENCV_FFMPEG_LOGLEVEL", "OPENCV_FFMPEG_DEBUG", "OPENCV_LOG_LEVEL")
# Reading errors in a row after which the child ends, as `video.MAX_DAMAGED`.
MAX_FAILED = 50
# Damaged places closer together than this are reported as one; the number of places that a message lists.
SAME_PLACE_SECONDS, MAX_PLACES = 1.0, 5
# The child may take this long in seconds, and as long as the inference, after it; how often it is looked at.
PATIENCE_SECONDS, POLL_SECONDS = 60.0, 0.02


@contextlib.contextmanager
def reported(path: pathlib.Path, log: Callable[[str], None]) -> Iterator[None]:
    """A context in which a video is processed; at its end `log` gets a line if damages were concealed.

    Nothing is reported where no Python interpreter can be started, as in frozen applications.
    """
    try:
        lines = tempfile.TemporaryFile()
        child = _start(path, lines)
    except OSError:
        yield
        return
    start = time.monotonic()
    with lines:
        try:
            yield
            end = 2 * time.monotonic() - start + PATIENCE_SECONDS
            while child.poll() is None and time.monotonic() < end:
                time.sleep(POLL_SECONDS)
        finally:
            child.kill()
            child.wait()
        lines.seek(0)
        places = damaged_times(lines.read())
    if places:
        shown = ", ".join(f"{place:.1f} s" for place in places[:MAX_PLACES])
        more = f" and {len(places) - MAX_PLACES} more places" if len(places) > MAX_PLACES else ""
        message = f"{path.name}: data near {shown}{more} are damaged and concealed by the decoder"
        log(f"{message}; points from there on may be wrong")


def _start(path: pathlib.Path, lines: IO[bytes]) -> subprocess.Popen:
    """The child, which writes into `lines`. Raises OSError if it cannot be started."""
    if not sys.executable or getattr(sys, "frozen", False):
        raise FileNotFoundError("no Python interpreter")
    command = [sys.executable, "-P", __file__, str(path.absolute())]
    settings = {name: value for name, value in os.environ.items() if name not in LOG_SETTINGS}
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, env=settings, stdin=quiet, stdout=quiet, stderr=lines)


def damaged_times(lines: bytes) -> list[float]:
    """Times in seconds at which FFmpeg complained about a frame that OpenCV returned, from the stderr of the child."""
    places: list[float] = []
    complained, opened = False, False
    for line in lines.splitlines():
        if MESSAGE.match(line):
            complained = opened
        elif line.startswith(FRAME):
            # The first line ends the opening of the file, whose messages return with the frames.
            if complained and line != FRAME:
                place = float(line.removeprefix(FRAME)) / 1000
                if not places or place - places[-1] > SAME_PLACE_SECONDS:
                    places.append(place)
            complained, opened = False, True
    return places


def _decode(path: str) -> None:
    """The child: decodes a video with one thread, so that messages come between the frames to which they belong."""
    import cv2

    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    os.write(2, FRAME + b"\n")
    failed = 0
    while failed < MAX_FAILED:
        readable = capture.grab()
        failed = 0 if readable else failed + 1
        milliseconds = b"%.3f" % capture.get(cv2.CAP_PROP_POS_MSEC) if readable else b""
        os.write(2, FRAME + milliseconds + b"\n")


if __name__ == "__main__":
    _decode(sys.argv[1])
