"""Annotated photos as TFDS records: common code of the builders of 2D landmark data sets.

A record holds the face with its surroundings at the photo's resolution, the landmarks in pixels of that image, and
PIPNet's crop (jhb86253817/PIPNet, lib/preprocess.py) as a rectangle, with the landmarks in units of it for training and
evaluation of that system. PIPNet stores the cropped image; here it is cropped when the record is read, so that other
systems can use more of the image.
"""

import dataclasses
import functools
import io
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds

from jaxface import crops, photo
from jaxface.data.entries import Entry, read_each
from jaxface.errors import UserError, shortened

JPEG_QUALITY = 95
# Side of the crop of points that are nearly on a line, in largest distances between two of them: for two eyes, about
# the width of the face.
ELONGATED_SCALE = 2.0


@dataclasses.dataclass(frozen=True)
class Crop:
    """PIPNet's rectangle in pixels of the photo: corners `low`, `high` (2,) float64, x before y.

    Landmarks are normalised by the exact corners. The pixels of the crop are those from the truncated `low` up to the
    truncated `high`, which is excluded.
    """

    low: np.ndarray
    high: np.ndarray

    def normalise(self, points: np.ndarray) -> np.ndarray:
        """Points (L,2) px in units of the crop, 0 to 1 inside it."""
        return (points - self.low) / (self.high - self.low)

    def pixels(self) -> np.ndarray:
        """The crop (4,) int: x0, y0, x1, y1 px of the photo, x1 and y1 excluded."""
        return np.concatenate([self.low, self.high]).astype(int)

    def origin(self) -> np.ndarray:
        """The first pixel (2,) int, x and y, of the region that a record holds."""
        x0, y0, x1, y1 = self.pixels()
        return np.array([max(0, x0 - (x1 - x0) // 2), max(0, y0 - (y1 - y0) // 2)])

    def region(self) -> tuple[slice, slice]:
        """Rows and columns of the photo that a record holds: the crop and a margin of half its size."""
        x0, y0, x1, y1 = self.pixels()
        left, top = self.origin()
        return slice(top, y1 + (y1 - y0) // 2), slice(left, x1 + (x1 - x0) // 2)


@dataclasses.dataclass(frozen=True)
class AnnotatedFace:
    """One face of a data set.

    Attributes:
        name: identifies the face in the original data set, unique within a split.
        image: the photo (H,W,3) uint8, BGR as OpenCV reads it.
        crop: PIPNet's crop.
        box: (4,) x0, y0, x1, y1 px, the data set's own face box.
        landmarks: (L,2) px, pixel centres at integers, NaN for a missing point; None if the face is not annotated.
        crop_landmarks: (L,2) float64 in crop units as PIPNet computes them; None if the face is not annotated.
        attributes: further features, specific to the data set.
        valid: (L,) bool, the annotated points; None: those that are finite.
    """

    name: str
    image: np.ndarray
    crop: Crop
    box: np.ndarray
    landmarks: np.ndarray | None = None
    crop_landmarks: np.ndarray | None = None
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)
    valid: np.ndarray | None = None


def clamp_crop(low: np.ndarray, high: np.ndarray, image: np.ndarray) -> Crop:
    """The crop between two corners (2,) px, clamped to 0 … size - 1 of the image."""
    limit = np.array(image.shape[1::-1], np.float64) - 1
    return Crop(np.maximum(low, 0.0), np.minimum(high, limit))


def landmark_crop(points: np.ndarray, scale: float, image: np.ndarray) -> Crop:
    """The bounding box of landmarks (L,2) px, enlarged by `scale` about its centre and clamped to the image.

    Points that are nearly on a line have no useful bounding box. Their crop is a square of ELONGATED_SCALE, whose size
    does not depend on their direction. Missing points are NaN and ignored; UserError if all are missing.
    """
    box = landmark_box(points)
    points, low, high = points[np.isfinite(points).all(-1)], box[:2], box[2:]
    margin = (high - low) * (scale - 1) / 2
    if crops.is_elongated(points):
        margin = (crops.diameter(points) * ELONGATED_SCALE - (high - low)) / 2
    return clamp_crop(low - margin, high + margin, image)


def landmark_box(points: np.ndarray) -> np.ndarray:
    """The bounding box (4,) px of the finite landmarks of (L,2). Raises UserError if there are none."""
    points = points[np.isfinite(points).all(-1)]
    if not len(points):
        raise UserError("no landmark is annotated; label it again")
    return np.concatenate([points.min(0), points.max(0)])


def read_image(path: pathlib.Path) -> np.ndarray:
    """The photo (H,W,3) uint8 BGR in full resolution, upright, decoded as by `photo.load`.

    Raises UserError if the file is missing, truncated or not an image.
    """
    if not os.path.isfile(path):
        raise UserError(f"{shortened(str(path))}: missing")
    pixels = photo.load(path, max_kept=None).pixels
    return np.ascontiguousarray(pixels[..., ::-1])


def find_root(manual_dir: str | pathlib.Path, marker: str) -> pathlib.Path:
    """`manual_dir` or the folder directly below it that contains `marker`. Raises UserError if there is none."""
    folder = pathlib.Path(manual_dir)
    for candidate in (folder, *sorted(path for path in folder.iterdir() if path.is_dir())):
        if (candidate / marker).exists():
            return candidate
    raise UserError(f"{folder}: has no {marker}")


def float_tensor(*shape: int | None) -> tfds.features.Tensor:
    """A float32 feature."""
    return tfds.features.Tensor(shape=shape, dtype=np.float32)


def info(
    builder: tfds.core.DatasetBuilder,
    layout: str,
    count: int | None,
    attributes: dict[str, tfds.features.FeatureConnector] | None = None,
) -> tfds.core.DatasetInfo:
    """Features and metadata of an annotated data set.

    Features: image (H,W,3) RGB, the crop with a margin of half its size. landmarks (L,2) and box (4,), px of `image`,
    pixel centres at integers. crop (4,) int: x0, y0, x1, y1 px of `image`, x1 and y1 excluded. crop_landmarks (L,2):
    landmarks in crop units, as PIPNet computes them. valid (L,) bool: the annotated landmarks; the coordinates of the
    others are NaN. name: see `AnnotatedFace`. Metadata: `layout`; `meanface`, 2L float64 x0, y0, x1, … in crop units;
    `failed`, the reason by name of each face that was left out.

    Args:
        builder: the data set's builder, whose docstring is the description.
        layout: name of the landmark layout, "" for none.
        count: number of landmarks; 0 for none, None if it depends on the files.
        attributes: further features.
    """
    labels = {
        "landmarks": float_tensor(count, 2),
        "crop_landmarks": float_tensor(count, 2),
        "valid": tfds.features.Tensor(shape=(count,), dtype=np.bool_),
    }
    features = {
        "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
        "box": float_tensor(4),
        "crop": tfds.features.Tensor(shape=(4,), dtype=np.int32),
        "name": tfds.features.Text(),
        **(labels if count != 0 else {}),
        **(attributes or {}),
    }
    return tfds.core.DatasetInfo(
        builder=builder,
        description=builder.__doc__,
        features=tfds.features.FeaturesDict(features),
        metadata=tfds.core.MetadataDict(layout=layout, failed={}),
    )


def records(
    faces: Iterable[Entry[AnnotatedFace]], info: tfds.core.DatasetInfo, count: int = 0, meanface: bool = False
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Records of the annotated faces of a split; faces that cannot be used are left out (`entries.read_each`).

    Args:
        faces: the faces.
        info: the data set's description, in whose metadata they are named.
        count: number of landmarks; those of faces without annotation are NaN.
        meanface: write the mean of the valid landmarks in crop units to the metadata as "meanface".

    Yields:
        (number from 1, record).

    Raises:
        UserError: the split has no usable face, or a landmark is missing in all.
    """
    total, counts = 0.0, 0
    usable = read_each((Entry(face.name, functools.partial(_read_record, face, count)) for face in faces), info)
    for number, (_, (record, crop_landmarks, valid)) in enumerate(usable, start=1):
        total, counts = total + np.where(valid[:, None], crop_landmarks, 0.0), counts + valid
        yield number, record
    if meanface:
        if not np.all(counts):
            missing = np.flatnonzero(counts == 0)[0]
            raise UserError(f"landmark {missing} (from 0) is missing in all training images; leave it out everywhere")
        info.metadata["meanface"] = (total / np.reshape(counts, (-1, 1))).ravel().tolist()


def _read_record(entry: Entry[AnnotatedFace], count: int) -> tuple[dict[str, Any], np.ndarray, np.ndarray] | None:
    face = entry.read()
    return None if face is None else _record(face, count)


def _is_text(name: str) -> bool:
    """Whether a name can be stored; Python reads other bytes of a file name as lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def valid_landmarks(example: Mapping[str, np.ndarray]) -> np.ndarray:
    """The annotated landmarks (L,) bool of a record; records of earlier versions have no feature `valid`."""
    return example["valid"] if "valid" in example else np.isfinite(example["landmarks"]).all(-1)


def _record(face: AnnotatedFace, count: int) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """The features of a face, its landmarks (L,2) in crop units and which of them are valid (L,).

    The image is cut to the crop and a margin of half its size; coordinates are relative to it.
    """
    if not _is_text(face.name):
        raise UserError("its file name is not valid Unicode; rename the file")
    missing = np.full((count, 2), np.nan)
    landmarks = missing if face.landmarks is None else np.asarray(face.landmarks, np.float64)
    crop_landmarks = missing if face.crop_landmarks is None else np.asarray(face.crop_landmarks, np.float64)
    valid = np.isfinite(landmarks).all(-1) & np.isfinite(crop_landmarks).all(-1)
    if face.valid is not None:
        valid &= face.valid
    height, width = face.image.shape[:2]
    x0, y0, x1, y1 = whole = face.crop.pixels()
    if not (0 <= x0 < x1 and 0 <= y0 < y1):
        raise UserError(f"{face.name}: the face box {face.box.tolist()} lies outside the {width} x {height} image")
    region = face.image[face.crop.region()]
    encoded = cv2.imencode(".jpg", region, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
    origin = face.crop.origin()
    labels = {
        "landmarks": np.where(valid[:, None], landmarks - origin, np.nan).astype(np.float32),
        "crop_landmarks": np.where(valid[:, None], crop_landmarks, np.nan).astype(np.float32),
        "valid": valid,
    }
    record = {
        "image": io.BytesIO(encoded.tobytes()),
        "box": (face.box - np.tile(origin, 2)).astype(np.float32),
        "crop": (whole - np.tile(origin, 2)).astype(np.int32),
        "name": face.name,
        **(labels if len(valid) else {}),
        **face.attributes,
    }
    return record, crop_landmarks, valid
