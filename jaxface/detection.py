"""Face boxes: detection with OpenCV's Haar cascade, and validation of boxes that the user passes.

A box is x0, y0, x1, y1 px and encloses a face from hairline to chin and from side to side; it may leave the image.
"""

import pathlib
import threading
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np

from jaxface.errors import UserError

# Faces are searched for in a copy whose long side lies between these limits; smaller images are enlarged.
DETECTION_SIDES = (320, 1280)
# Number of overlapping detections that count as a face (OpenCV's minNeighbors). False detections on photographs without
# faces have at most 4 in the upright image and 5 in rotated ones.
MIN_NEIGHBORS, MIN_NEIGHBORS_ROTATED = 5, 8
ROTATIONS_DEG = (30, -30)
SMALLEST_PX = 24
SCALE_FACTOR = 1.1
# Extent of a face (side to side 140 mm, hairline to chin 185 mm) in widths of the cascade's square. The width of the
# square is the interpupillary distance (63 mm) / 0.365; the centre of the extent lies 0.023 widths below that of the
# square. Measured on 25 mostly frontal photographs.
EXTENT_PER_SQUARE = (0.81, 1.07)
EXTENT_BELOW_SQUARE = 0.023

_thread = threading.local()


def detect_faces(image: np.ndarray) -> np.ndarray:
    """Boxes (F,4) float32 of the faces in an image (H,W,3) uint8 RGB, the largest first.

    Haar cascade frontalface_alt2 on a copy of moderate size. If it finds no face, the image is rotated by
    ROTATIONS_DEG. Safe to call from several threads.
    """
    long_side = max(image.shape[:2])
    scale = float(np.clip(long_side, *DETECTION_SIDES)) / long_side
    size = [max(1, round(length * scale)) for length in image.shape[1::-1]]
    gray = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    gray = cv2.cvtColor(gray, cv2.COLOR_RGB2GRAY)
    squares = next((squares for squares in _attempts(gray) if len(squares)), np.zeros((0, 3)))
    center = (squares[:, :2] + [0, EXTENT_BELOW_SQUARE] * squares[:, 2:] + 0.5) / scale - 0.5
    half = squares[:, 2:] * EXTENT_PER_SQUARE / scale / 2
    boxes = np.concatenate([center - half, center + half], axis=1).astype(np.float32)
    return boxes[np.argsort(-squares[:, 2], kind="stable")]


def _attempts(gray: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the squares (F,3), centre and side px, of the upright image and of each rotated one."""
    yield _squares(gray, MIN_NEIGHBORS)
    height, width = gray.shape
    for degrees in ROTATIONS_DEG:
        rotation = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1)
        rotated = cv2.warpAffine(gray, rotation, (width, height), borderMode=cv2.BORDER_REPLICATE)
        squares, inverse = _squares(rotated, MIN_NEIGHBORS_ROTATED), cv2.invertAffineTransform(rotation)
        squares[:, :2] = squares[:, :2] @ inverse[:, :2].T + inverse[:, 2]
        yield squares


def _squares(gray: np.ndarray, min_neighbors: int) -> np.ndarray:
    """Detections (F,3) of the cascade: centre and side px."""
    detections = _cascade().detectMultiScale(gray, SCALE_FACTOR, min_neighbors, minSize=(SMALLEST_PX, SMALLEST_PX))
    corner_and_size = np.array(detections, np.float64).reshape(-1, 4)
    center = corner_and_size[:, :2] + (corner_and_size[:, 2:] - 1) / 2
    return np.concatenate([center, corner_and_size[:, 2:3]], axis=1)


def _cascade() -> cv2.CascadeClassifier:
    """The cascade of the calling thread: a CascadeClassifier stores its current image and is not thread-safe."""
    if not hasattr(_thread, "cascade"):
        path = pathlib.Path(cv2.data.haarcascades) / "haarcascade_frontalface_alt2.xml"
        _thread.cascade = cv2.CascadeClassifier(str(path))
    return _thread.cascade


def as_boxes(boxes: Any) -> np.ndarray:
    """Boxes (F,4) float32 from (4,) or (F,4) numbers.

    Raises UserError if the shape is another, a number is not finite, or x1 <= x0 or y1 <= y0.
    """
    try:
        array = np.atleast_2d(np.asarray(boxes, np.float32))
    except (TypeError, ValueError) as error:
        raise UserError(f"boxes: {boxes!r} is not a box; give four numbers x0, y0, x1, y1") from error
    if array.size == 0:
        return array.reshape(0, 4)
    if array.ndim != 2 or array.shape[1] != 4:
        raise UserError(f"boxes: the shape is {np.shape(boxes)}; give (4,) or (F,4) numbers x0, y0, x1, y1")
    for box in array:
        if not (np.isfinite(box).all() and (box[2:] > box[:2]).all()):
            raise UserError(f"boxes: {box.tolist()} is not a box; give x0, y0, x1, y1 with x0 < x1 and y0 < y1")
    return array


def check_boxes(boxes: Any, width: int, height: int) -> np.ndarray:
    """`as_boxes` that also raises UserError if a box does not touch the image of width x height pixels."""
    array = as_boxes(boxes)
    for x0, y0, x1, y1 in array.tolist():
        if x1 <= -0.5 or y1 <= -0.5 or x0 >= width - 0.5 or y0 >= height - 0.5:
            box = [x0, y0, x1, y1]
            raise UserError(f"boxes: {box} lies outside the image of {width} x {height} pixels; give pixels of it")
    return array


def check_or_detect(boxes: Any, image: np.ndarray) -> np.ndarray:
    """Boxes (F,4) of the caller, checked by `check_boxes`; those of `detect_faces` if `boxes` is None."""
    if boxes is None:
        return detect_faces(image)
    return check_boxes(boxes, image.shape[1], image.shape[0])
