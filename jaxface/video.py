"""Video files in and out, tracking of faces from frame to frame, and smoothing of landmarks over time."""

import dataclasses
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import cv2
import numpy as np

from jaxface import crops
from jaxface.errors import UserError
from jaxface.results import FaceLandmarks

# Number of frames between two runs of the detector.
DETECT_EVERY = 15
# Boxes whose intersection over union reaches this value belong to the same face.
SAME_FACE_IOU = 0.3
# Frames per second that are assumed for a file with no rate or an implausible one.
DEFAULT_RATE = 25.0
HIGHEST_RATE = 1000


@dataclasses.dataclass(frozen=True)
class Clip:
    """A readable video file: `rate` in frames per second, `width` and `height` in pixels as displayed."""

    path: str
    rate: float
    width: int
    height: int

    def frames(self) -> Iterator[np.ndarray]:
        """Yields its frames (H,W,3) uint8 RGB."""
        capture = cv2.VideoCapture(self.path)
        try:
            while (result := capture.read())[0]:
                yield np.ascontiguousarray(result[1][..., ::-1])
        finally:
            capture.release()


def open_clip(path: str | os.PathLike) -> Clip:
    """The clip in a file. Raises UserError if it is missing, empty or cannot be decoded by OpenCV."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; check the path")
    capture = cv2.VideoCapture(str(path))
    rate = capture.get(cv2.CAP_PROP_FPS)
    readable, frame = capture.read()
    capture.release()
    if not readable:
        raise UserError(f"{path.name}: not a readable video file; it is empty, damaged or of an unsupported type")
    if not 0 < rate < HIGHEST_RATE:
        rate = DEFAULT_RATE
    return Clip(str(path), rate, frame.shape[1], frame.shape[0])


class ClipWriter:
    """Context manager that writes frames (H,W,3) uint8 RGB of one size to an .mp4 file. Raises OSError on failure."""

    def __init__(self, path: str | os.PathLike, rate: float, width: int, height: int):
        self._writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), rate, (width, height))
        if not self._writer.isOpened():
            raise OSError(f"{path}: the video cannot be written")

    def write(self, frame: np.ndarray) -> None:
        """Appends one frame."""
        self._writer.write(np.ascontiguousarray(frame[..., ::-1]))

    def __enter__(self) -> "ClipWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.release()


def track(
    frames: Iterable[np.ndarray], predict: Callable[..., list[FaceLandmarks]], box: Any = None
) -> Iterator[tuple[np.ndarray, list[FaceLandmarks]]]:
    """Yields frames with their faces; a face is tracked by cropping at its extent in the previous frame.

    `track` of a face is the number of its track. Lost faces are dropped. The detector runs on every DETECT_EVERY-th
    frame and on frames without a tracked face.

    Args:
        frames: (H,W,3) uint8 RGB.
        predict: `(frame, boxes=...) -> faces`.
        box: (4,) px; if it is not None, only this face is tracked, never dropped, and the detector is not run.
    """
    boxes = {} if box is None else {0: np.asarray(box)}
    count = len(boxes)
    for index, frame in enumerate(frames):
        faces = predict(frame, boxes=np.stack(list(boxes.values()))) if boxes else []
        faces = [dataclasses.replace(face, track=number) for number, face in zip(boxes, faces, strict=True)]
        if box is None:
            faces = _without_duplicates([face for face in faces if _is_tracked(face, frame)])
            if not faces or index % DETECT_EVERY == 0:
                detected = predict(frame, boxes=None)
                new = [dataclasses.replace(face, track=number) for number, face in enumerate(detected, count)]
                count += len(new)
                faces = _without_duplicates([*faces, *new])
        yield frame, faces
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


@dataclasses.dataclass
class OneEuro:
    """The One-Euro filter: strong smoothing at rest, little lag in motion. Casiez et al., CHI 2012.

    Attributes:
        rate: samples per second.
        cutoff_hz: cutoff frequency at rest.
        beta: increase of the cutoff frequency per unit of speed.
        speed_cutoff_hz: cutoff frequency of the speed estimate.
    """

    rate: float
    cutoff_hz: float = 1.0
    beta: float = 3.0
    speed_cutoff_hz: float = 1.0
    _value: np.ndarray | None = None
    _speed: np.ndarray | float = 0.0

    def __call__(self, value: np.ndarray, unit: float = 1.0) -> np.ndarray:
        """The filtered (N,D) sample; speed is measured in `unit` per second."""
        if self._value is None:
            self._value = value
            return value
        speed = (value - self._value) * self.rate
        self._speed = self._speed + self._gain(self.speed_cutoff_hz) * (speed - self._speed)
        cutoff = self.cutoff_hz + self.beta * np.linalg.norm(self._speed, axis=-1, keepdims=True) / unit
        self._value = self._value + self._gain(cutoff) * (value - self._value)
        return self._value

    def _gain(self, cutoff_hz: Any) -> Any:
        """Weight of the new sample in the exponential smoothing."""
        return 1 / (1 + self.rate / (2 * math.pi * cutoff_hz))


def smooth(
    tracked: Iterable[tuple[np.ndarray, list[FaceLandmarks]]], rate: float
) -> Iterator[tuple[np.ndarray, list[FaceLandmarks]]]:
    """Yields the frames and faces of `track` with points smoothed over time, at `rate` frames per second.

    Speed is measured in face sizes per second.
    """
    filters: dict[int | None, OneEuro] = {}
    for frame, faces in tracked:
        filters = {face.track: filters.get(face.track, OneEuro(rate)) for face in faces}
        smoothed = []
        for face in faces:
            side = np.mean(face.extent[2:] - face.extent[:2])
            smoothed.append(dataclasses.replace(face, points=filters[face.track](face.points, side)))
        yield frame, smoothed
