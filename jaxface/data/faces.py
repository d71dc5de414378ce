"""Photographs with landmarks as TFDS records: what the builders of annotated data sets share.

A record holds the face with its surroundings at the photograph's resolution, the landmarks in its pixels, and PIPNet's
crop of it (jhb86253817/PIPNet, lib/preprocess.py): the rectangle and the labels in units of it, in which that system
trains and scores. PIPNet stores the crop itself; here it is cut when it is read, so that other systems can use more of
the picture.
"""

import dataclasses
import io
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds

from jaxface.errors import UserError

JPEG_QUALITY = 95


@dataclasses.dataclass(frozen=True)
class Crop:
    """PIPNet's rectangle in pixels of the photograph: corners `low`, `high` (2,) float64, x before y.

    Labels are measured between the corners as they are; the pixels are those from the truncated `low` up to, without,
    the truncated `high`.
    """

    low: np.ndarray
    high: np.ndarray

    def units(self, points: np.ndarray) -> np.ndarray:
        """Points (L,2) px in units of the crop, 0 to 1 inside it."""
        return (points - self.low) / (self.high - self.low)


@dataclasses.dataclass(frozen=True)
class AnnotatedFace:
    """One face as its data set has it.

    picture: the photograph (H,W,3) uint8, BGR as OpenCV reads it. box: (4,) x0, y0, x1, y1 px, the data set's own.
    landmarks: (L,2) px, pixel centres at integers. labels: (L,2) float64 in crop units, as PIPNet has them. Both are
    None where there are none. more: what only this data set knows.
    """

    name: str
    picture: np.ndarray
    crop: Crop
    box: np.ndarray
    landmarks: np.ndarray | None = None
    labels: np.ndarray | None = None
    more: dict[str, Any] = dataclasses.field(default_factory=dict)


def clamped(low: np.ndarray, high: np.ndarray, picture: np.ndarray) -> Crop:
    """The crop between two corners (2,) px, held inside 0 … size-1 of the picture."""
    limit = np.array(picture.shape[1::-1], np.float64) - 1
    return Crop(np.maximum(low, 0.0), np.minimum(high, limit))


def read_picture(path: pathlib.Path) -> np.ndarray:
    """The photograph (H,W,3) uint8, BGR. Raises UserError where the file is missing or no picture."""
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR) if path.is_file() else None
    if picture is None:
        raise UserError(f"{path} is {'no readable picture' if path.exists() else 'missing'}")
    return picture


def find_root(manual_dir: str | pathlib.Path, marker: str) -> pathlib.Path:
    """The folder that holds `marker`: `manual_dir` or a folder right below it. UserError where neither does."""
    folder = pathlib.Path(manual_dir)
    for candidate in (folder, *sorted(path for path in folder.iterdir() if path.is_dir())):
        if (candidate / marker).exists():
            return candidate
    raise UserError(f"{folder} has no {marker}")


def info(
    builder: tfds.core.DatasetBuilder, layout: str, count: int | None, more: dict[str, Any] | None = None
) -> tfds.core.DatasetInfo:
    """What a set with `count` landmarks of `layout` holds: 0 for none, None for as many as the files say; `more` of it.

    image: the face and half a crop around it, RGB. landmarks (L,2), box (4,): px of `image`, pixel centres at
    integers. crop (4,) int: x0, y0, x1, y1 px of `image`, x1 and y1 excluded; crop_landmarks (L,2): PIPNet's labels
    in units of it. name: where the photograph came from. NaN stands for landmarks that an example does not have.
    The metadata name the `layout` and hold the mean face: 2L floats x0, y0, x1, … in crop units, float64.
    """

    def floats(*shape: int | None) -> tfds.features.Tensor:
        return tfds.features.Tensor(shape=shape, dtype=np.float32)

    labels = {"landmarks": floats(count, 2), "crop_landmarks": floats(count, 2)} if count != 0 else {}
    features = {
        "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
        "box": floats(4),
        "crop": tfds.features.Tensor(shape=(4,), dtype=np.int32),
        "name": tfds.features.Text(),
        **labels,
        **(more or {}),
    }
    return tfds.core.DatasetInfo(
        builder=builder,
        description=builder.__doc__,
        features=tfds.features.FeaturesDict(features),
        metadata=tfds.core.MetadataDict(layout=layout),
    )


def records(faces: Iterable[AnnotatedFace], count: int = 0, averaged: tfds.core.DatasetInfo | None = None) -> Iterator:
    """(number, record) of every face; where it has no landmarks, `count` times NaN.

    With `averaged`, the mean of their labels is left in its metadata as "meanface". Raises UserError for a split
    without faces and a face box outside its picture.
    """
    total, seen = 0.0, 0
    for face in faces:
        missing = np.full((count, 2), np.nan)
        labels = missing if face.labels is None else face.labels
        landmarks = missing if face.landmarks is None else face.landmarks
        total, seen = total + labels, seen + 1
        yield seen, _record(face, landmarks, labels)
    if not seen:
        raise UserError("a split of the data set has not a single face; is everything there?")
    if averaged is not None:
        averaged.metadata["meanface"] = (total / seen).ravel().tolist()


def _record(face: AnnotatedFace, landmarks: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    height, width = face.picture.shape[:2]
    x0, y0, x1, y1 = (int(value) for value in (*face.crop.low, *face.crop.high))
    if not (0 <= x0 < x1 and 0 <= y0 < y1):
        raise UserError(f"{face.name}: its face {face.box.tolist()} lies outside the {width} x {height} picture")
    left, top = max(0, x0 - (x1 - x0) // 2), max(0, y0 - (y1 - y0) // 2)
    region = face.picture[top : y1 + (y1 - y0) // 2, left : x1 + (x1 - x0) // 2]
    encoded = cv2.imencode(".jpg", region, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
    origin = np.array([left, top])
    points = {"landmarks": landmarks - origin, "crop_landmarks": labels} if len(labels) else {}
    return {
        "image": io.BytesIO(encoded.tobytes()),
        "box": (face.box - np.tile(origin, 2)).astype(np.float32),
        "crop": np.array([x0 - left, y0 - top, x1 - left, y1 - top], np.int32),
        "name": face.name,
        **{name: value.astype(np.float32) for name, value in points.items()},
        **face.more,
    }
