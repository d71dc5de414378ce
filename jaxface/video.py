"""Video files and cameras in, video files out, and tracking of faces from frame to frame."""

import collections
import dataclasses
import os
import pathlib
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from time import monotonic
from typing import Any, TypeAlias

import cv2
import numpy as np

from jaxface import crops, interrupts
from jaxface.errors import UserError
from jaxface.results import FaceLandmarks

# FFmpeg inside OpenCV prints what it meets in damaged files; `clips` and `video_damage` say it in one line.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
# Number of frames between two runs of the detector.
DETECT_EVERY = 15
# Boxes whose intersection over union reaches this value belong to the same face.
SAME_FACE_IOU = 0.3
# Frames per second that are assumed for a file without a rate, and the highest that is taken from a file.
DEFAULT_RATE = 25.0
HIGHEST_RATE = 1000.0
# Frames at the beginning of a clip that show its rate, and damaged frames in a row that are taken for its end.
RATE_FRAMES, MAX_DAMAGED = 16, 50
# Frames of a track from which the identity of its fitted head is estimated.
IDENTITY_FRAMES = 24
# The header of a clip of variable rate has the mean rate; one below this fraction of the measured rate is not used.
MIN_RATE_RATIO = 0.75


@dataclasses.dataclass(frozen=True)
class Clip:
    """A readable video file.

    Attributes:
        path: absolute path.
        rate: frames per second; of a clip of variable rate the highest at its beginning.
        width: px, as displayed: rotated, with square pixels.
        height: px, as displayed.
        duration: seconds, by the file's header; 0 if it is unknown.
    """

    path: str
    rate: float
    width: int
    height: int
    duration: float = 0.0

    def frames(self) -> Iterator[np.ndarray]:
        """Yields its readable frames (height,width,3) uint8 RGB."""
        for _, frame in self.timed_frames():
            if frame is not None:
                yield frame

    def timed_frames(self) -> Iterator[tuple[float, np.ndarray | None]]:
        """Yields the time of each frame in seconds, as the file gives it, and the frame; None if it is damaged.

        Times increase: where a file restarts its clock, the frames continue at `rate`.
        """
        capture = cv2.VideoCapture(self.path)
        time, offset, missing = -1 / self.rate, 0.0, 0
        try:
            while missing < MAX_DAMAGED:
                readable, frame = capture.read()
                if not readable:
                    missing += 1
                    continue
                position = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
                if position + offset <= time:
                    offset = time + 1 / self.rate - position
                interval = (position + offset - time) / (missing + 1)
                for _ in range(missing):
                    time += interval
                    yield time, None
                time, missing = position + offset, 0
                if frame.shape[:2] != (self.height, self.width):
                    frame = cv2.resize(frame, (self.width, self.height), interpolation=cv2.INTER_LINEAR)
                yield time, np.ascontiguousarray(frame[..., ::-1])
        finally:
            capture.release()


def open_clip(path: str | os.PathLike) -> Clip:
    """The clip in a file. Raises UserError if it is missing, empty or cannot be decoded by OpenCV."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; check the path")
    # The path is made absolute, because OpenCV takes "12:30.mp4" for an address.
    capture = cv2.VideoCapture(str(path.absolute()))
    try:
        readable, frame = capture.read()
        if not readable:
            raise UserError(
                f"{path.name}: not a readable video file (empty, damaged or of an unsupported type); copy or convert it"
            )
        height, width = _displayed_size(capture, frame)
        rate, count = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
        duration = count / rate if rate > 0 and count > 0 else 0.0
        times_ms = [capture.get(cv2.CAP_PROP_POS_MSEC) for _ in range(RATE_FRAMES) if capture.grab()]
    finally:
        capture.release()
    return Clip(str(path.absolute()), _rate(rate, times_ms), width, height, duration)


@dataclasses.dataclass(frozen=True, eq=False)
class Camera:
    """An open camera; like a `Clip` whose duration is unknown.

    Attributes:
        path: "camera_0".
        rate: frames per second, by the camera.
        width, height: px.
        stop: ends `timed_frames` when it is set.
    """

    path: str
    rate: float
    width: int
    height: int
    capture: cv2.VideoCapture
    stop: threading.Event
    duration: float = 0.0

    def timed_frames(self) -> Iterator[tuple[float, np.ndarray | None]]:
        """Yields the time in seconds since the first frame, and the frame (height,width,3) uint8 RGB.

        Ends when `stop` is set or the camera gives no more frames. Frames that arrive while one is processed are lost.
        """
        start, missing = monotonic(), 0
        try:
            while not self.stop.is_set() and missing < MAX_DAMAGED:
                readable, frame = self.capture.read()
                missing = 0 if readable else missing + 1
                if readable:
                    yield monotonic() - start, np.ascontiguousarray(frame[..., ::-1])
        finally:
            self.capture.release()


def open_camera(number: int, stop: threading.Event) -> Camera:
    """The camera with a number, from 0. Raises UserError if there is none or it gives no image."""
    capture = cv2.VideoCapture(number)
    readable, frame = capture.read()
    if not readable:
        capture.release()
        raise UserError(f"--camera: camera {number} gives no image; check its number and that no other program uses it")
    rate = capture.get(cv2.CAP_PROP_FPS)
    height, width = frame.shape[:2]
    rate = min(rate, HIGHEST_RATE) if np.isfinite(rate) and rate > 0 else DEFAULT_RATE
    return Camera(f"camera_{number}", rate, width, height, capture, stop)


def _rate(header_rate: float, times_ms: list[float]) -> float:
    """Frames per second by a file's header, or by the times of its first frames if they are closer to each other."""
    intervals_ms = np.diff(times_ms)
    intervals_ms = intervals_ms[intervals_ms > 0]
    rate = header_rate if header_rate > 0 and np.isfinite(header_rate) else 0.0
    if len(intervals_ms):
        measured = 1000 / float(np.median(intervals_ms))
        rate = measured if rate < MIN_RATE_RATIO * measured else rate
    return min(rate, HIGHEST_RATE) or DEFAULT_RATE


def _displayed_size(capture: cv2.VideoCapture, frame: np.ndarray) -> tuple[int, int]:
    """Height and width of a frame whose pixels, if they are not square, are stretched along their stored rows."""
    height, width = frame.shape[:2]
    numerator, denominator = capture.get(cv2.CAP_PROP_SAR_NUM), capture.get(cv2.CAP_PROP_SAR_DEN)
    aspect = numerator / denominator if numerator > 0 and denominator > 0 else 1.0
    if capture.get(cv2.CAP_PROP_ORIENTATION_META) % 180:
        return max(1, round(height * aspect)), width
    return height, max(1, round(width * aspect))


class ClipWriter:
    """Context manager that writes frames (H,W,3) uint8 RGB of one size to an .mp4 file. Raises OSError on failure."""

    def __init__(self, path: str | os.PathLike, rate: float, width: int, height: int):
        self._writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), rate, (width, height))
        if not self._writer.isOpened():
            raise OSError(f"{path}: the video cannot be written")
        self._path, self._rate, self._count, self._written = path, rate, 0, 0
        self._last: np.ndarray | None = None

    def write(self, frame: np.ndarray, time: float | None = None) -> None:
        """Appends a frame, to be shown from `time` in seconds until the time of the next one; None: 1 / rate later."""
        index = self._count + (self._last is not None) if time is None else round(time * self._rate)
        self._fill(index)
        self._last = np.ascontiguousarray(frame[..., ::-1])

    def _fill(self, count: int) -> None:
        """Repeats the last frame until the file has `count` frames."""
        if self._last is not None:
            for _ in range(self._count, count):
                self._writer.write(self._last)
                self._written += 1
        self._count = max(self._count, count)

    def __enter__(self) -> "ClipWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._fill(self._count + 1)
        self._writer.release()
        if kind is None and self._written and not self._is_complete():
            raise OSError(f"{self._path}: the video cannot be written completely; free some disk space")

    def _is_complete(self) -> bool:
        """Whether the file can be opened: its index comes last, and OpenCV reports no failed writing."""
        capture = cv2.VideoCapture(os.path.abspath(self._path))
        try:
            return capture.isOpened() and capture.get(cv2.CAP_PROP_FRAME_COUNT) >= self._written
        finally:
            capture.release()


# A frame (H,W,3), None if it is damaged, and its faces.
Tracked: TypeAlias = tuple[np.ndarray | None, list[FaceLandmarks]]


def track(
    frames: Iterable[np.ndarray | None], predict: Callable[..., list[FaceLandmarks]], box: Any = None
) -> Iterator[Tracked]:
    """Yields frames with their faces; a face is tracked by cropping at its extent in the previous frame.

    `track` of a face is the number of its track. Lost faces are dropped. The detector runs on every DETECT_EVERY-th
    frame and on frames without a tracked face.

    Args:
        frames: (H,W,3) uint8 RGB; None for a damaged frame, which has no faces and does not end a track.
        predict: `(frame, boxes=...) -> faces`.
        box: (4,) px; if it is not None, only this face is tracked, never dropped, and the detector is not run.
    """
    boxes = {} if box is None else {0: np.asarray(box)}
    count = len(boxes)
    scores: dict[int | None, float | None] = {}
    for index, frame in enumerate(frames):
        if frame is None:
            yield None, []
            continue
        faces = predict(frame, boxes=np.stack(list(boxes.values()))) if boxes else []
        faces = [
            dataclasses.replace(face, track=number, score=scores.get(number))
            for number, face in zip(boxes, faces, strict=True)
        ]
        if box is None:
            faces = _without_duplicates([face for face in faces if _is_tracked(face, frame)])
            if not faces or index % DETECT_EVERY == 0:
                detected = predict(frame, boxes=None)
                new = [dataclasses.replace(face, track=number) for number, face in enumerate(detected, count)]
                count += len(new)
                faces = _without_duplicates([*faces, *new])
        yield frame, faces
        scores = {face.track: face.score for face in faces}
        boxes = {face.track: face.extent if _is_tracked(face, frame) else face.box for face in faces}


def _is_tracked(face: FaceLandmarks, frame: np.ndarray) -> bool:
    """Whether the face touches the frame and its landmarks are certain enough."""
    x0, y0, x1, y1 = face.extent
    inside = x1 > 0 and y1 > 0 and x0 < frame.shape[1] - 1 and y0 < frame.shape[0] - 1
    return bool(inside and crops.is_face(face.sigma[None], face.extent[None])[0])


def _without_duplicates(faces: list[FaceLandmarks]) -> list[FaceLandmarks]:
    """Non-maximum suppression in the order of `faces`: drops faces that overlap an earlier one."""
    kept: list[FaceLandmarks] = []
    for face in faces:
        if all(_iou(face.extent, other.extent) < SAME_FACE_IOU for other in kept):
            kept.append(face)
    return kept


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes (4,)."""
    sides = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)
    intersection = sides.prod()
    return intersection / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - intersection)


def share_identity(tracked: Iterable[Tracked]) -> Iterator[Tracked]:
    """Yields the frames and faces of `track` with one identity of the fitted head for each track.

    It is the mean of the identities in the first IDENTITY_FRAMES frames of a track, which wait for each other; the
    heads of all its frames are fitted again with it.
    """
    identities: dict[int | None, list[np.ndarray]] = {}
    waiting: collections.deque[Tracked] = collections.deque()

    def refitted(item: Tracked) -> Tracked:
        frame, faces = item
        found = []
        for face in faces:
            if face.head is not None:
                head = face.head.refit(np.mean(identities[face.track], axis=0))
                face = dataclasses.replace(face, head=head, layer=head.draw())
            found.append(face)
        return frame, found

    for item in tracked:
        if not waiting and all(face.head is None for face in item[1]):
            yield item
            continue
        for face in item[1]:
            seen = identities.setdefault(face.track, [])
            if face.head is not None and len(seen) < IDENTITY_FRAMES:
                seen.append(np.asarray(face.head.coefficients["identity"]))
        waiting.append(item)
        if len(waiting) >= IDENTITY_FRAMES:
            yield refitted(waiting.popleft())
    while waiting:
        yield refitted(waiting.popleft())


def add_sound(path: pathlib.Path, source: str | os.PathLike) -> bool:
    """Adds the sound of the video `source`, if it has any, to the video file `path`; False if ffmpeg cannot do it.

    The images are not encoded again.
    """
    program = shutil.which("ffmpeg")
    if program is None:
        return False
    target = path.with_name(f"{path.stem}.sound.mp4")
    inputs = ["-i", str(path.absolute()), "-i", str(pathlib.Path(source).absolute())]
    streams = ["-map", "0:v", "-map", "1:a?", "-c:v", "copy", "-c:a", "aac", "-map_metadata", "-1"]
    command = [program, "-nostdin", "-loglevel", "error", "-y", *inputs, *streams, str(target.absolute())]
    with interrupts.temporary(target):
        done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode == 0:
            target.replace(path)
        return done.returncode == 0
