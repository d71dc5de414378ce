"""Clips in and out, faces followed from frame to frame, and a filter against jitter."""

import dataclasses
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import cv2
import numpy as np

from jaxface.errors import UserError

Face = dict[str, Any]

# A followed face is looked for anew where its median sigma is above this part of its size.
LOST_SIGMA = 0.06
# New faces are looked for in every so many frames; boxes that overlap by more are the same face.
DETECT_EVERY = 15
SAME_FACE = 0.3
UNKNOWN_RATE = 25.0


@dataclasses.dataclass(frozen=True)
class Clip:
    """A video file that can be read: `rate` frames per second, `width` and `height` as displayed."""

    path: str
    rate: float
    width: int
    height: int

    def frames(self) -> Iterator[np.ndarray]:
        """Its frames (H,W,3) uint8 RGB, one after the other."""
        capture = cv2.VideoCapture(self.path)
        try:
            while (answer := capture.read())[0]:
                yield np.ascontiguousarray(answer[1][..., ::-1])
        finally:
            capture.release()


def open_clip(path: str | os.PathLike) -> Clip:
    """The clip in a file. UserError: missing, empty, or nothing that OpenCV can decode."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such file")
    capture = cv2.VideoCapture(str(path))
    rate = capture.get(cv2.CAP_PROP_FPS)
    readable, frame = capture.read()
    capture.release()
    if not readable:
        raise UserError(f"{path.name}: not a video that can be read, or it is empty or damaged")
    return Clip(str(path), rate if 0 < rate < 1000 else UNKNOWN_RATE, frame.shape[1], frame.shape[0])


class ClipWriter:
    """Writes frames (H,W,3) uint8 RGB of one size to an .mp4 file; a context manager. OSError where it cannot."""

    def __init__(self, path: str | os.PathLike, rate: float, width: int, height: int):
        self._writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), rate, (width, height))
        if not self._writer.isOpened():
            raise OSError(f"cannot write the clip {path}")

    def write(self, frame: np.ndarray) -> None:
        """Appends one frame."""
        self._writer.write(np.ascontiguousarray(frame[..., ::-1]))

    def __enter__(self) -> "ClipWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.release()


def track(
    frames: Iterable[np.ndarray], predict: Callable[..., list[Face]], box: Any = None
) -> Iterator[tuple[np.ndarray, list[Face]]]:
    """Frames with their faces, each followed from the frame before: its crop starts from where it last was.

    predict(frame, boxes=…) gives faces with box, extent and sigma. Faces get a number, `track`. With `box` (4,) just
    this face is followed and nothing is detected; otherwise lost faces are dropped, and new ones looked for at times.
    """
    boxes = {} if box is None else {0: np.asarray(box)}
    count = len(boxes)
    for index, frame in enumerate(frames):
        faces = predict(frame, boxes=np.stack(list(boxes.values()))) if boxes else []
        faces = [{"track": number, **face} for number, face in zip(boxes, faces, strict=True)]
        if box is None:
            faces = _distinct([face for face in faces if _followed(face, frame)])
            if not faces or index % DETECT_EVERY == 0:
                found = [{"track": count + number, **face} for number, face in enumerate(predict(frame, boxes=None))]
                count += len(found)
                faces = _distinct([*faces, *found])
        yield frame, faces
        boxes = {face["track"]: face["extent" if _followed(face, frame) else "box"] for face in faces}


def _followed(face: Face, frame: np.ndarray) -> bool:
    x0, y0, x1, y1 = face["extent"]
    inside = x1 > 0 and y1 > 0 and x0 < frame.shape[1] - 1 and y0 < frame.shape[0] - 1
    return inside and np.median(face["sigma"]) < LOST_SIGMA * (x1 - x0 + y1 - y0) / 2


def _distinct(faces: list[Face]) -> list[Face]:
    kept: list[Face] = []
    for face in faces:
        if all(_overlap(face["extent"], other["extent"]) < SAME_FACE for other in kept):
            kept.append(face)
    return kept


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes (4,)."""
    sides = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)
    both = sides.prod()
    return both / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - both)


@dataclasses.dataclass
class OneEuro:
    """The One-Euro filter: calm points are smoothed much, fast ones little. Casiez et al., CHI 2012.

    `cutoff_hz` at rest; `beta` more per unit of speed; `speed_cutoff_hz` for the speed. Called with one (N,D) after the
    other at `rate` per second, and with the `unit` in which speed is measured.
    """

    rate: float
    cutoff_hz: float = 1.0
    beta: float = 3.0
    speed_cutoff_hz: float = 1.0
    _value: np.ndarray | None = None
    _speed: np.ndarray | float = 0.0

    def __call__(self, value: np.ndarray, unit: float = 1.0) -> np.ndarray:
        """The filtered `value`."""
        if self._value is None:
            self._value = value
            return value
        speed = (value - self._value) * self.rate
        self._speed = self._speed + self._share(self.speed_cutoff_hz) * (speed - self._speed)
        cutoff = self.cutoff_hz + self.beta * np.linalg.norm(self._speed, axis=-1, keepdims=True) / unit
        self._value = self._value + self._share(cutoff) * (value - self._value)
        return self._value

    def _share(self, cutoff_hz: Any) -> Any:
        """How much of the new value comes in."""
        return 1 / (1 + self.rate / (2 * math.pi * cutoff_hz))


def smooth(tracked: Iterable[tuple[np.ndarray, list[Face]]], rate: float) -> Iterator[tuple[np.ndarray, list[Face]]]:
    """The frames and faces of `track`, points smoothed over time; speed is in sizes of the face per second."""
    filters: dict[int, OneEuro] = {}
    for frame, faces in tracked:
        filters = {face["track"]: filters.get(face["track"], OneEuro(rate)) for face in faces}
        calm = []
        for face in faces:
            side = np.mean(face["extent"][2:] - face["extent"][:2])
            calm.append({**face, "points": filters[face["track"]](face["points"], side)})
        yield frame, calm
