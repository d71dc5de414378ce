"""Annotated photos as TFDS records: common code of the builders of 2D landmark data sets.

A record holds the face with its surroundings at the photo's resolution, the landmarks in pixels of that image, and
PIPNet's crop (jhb86253817/PIPNet, lib/preprocess.py) as a rectangle, with the landmarks in units of it for training and
evaluation of that system. PIPNet stores the cropped image; here it is cropped when the record is read, so that other
systems can use more of the image.
"""

import dataclasses
import io
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds

from jaxface import crops, photo
from jaxface.errors import UserError

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


class UnreadableImageError(UserError):
    """An image file that exists but cannot be decoded."""


@dataclasses.dataclass(frozen=True)
class Job:
    """Reads one face when it is needed: `name` as in `AnnotatedFace`, and `read`, which may raise UserError."""

    name: str
    read: Callable[[], AnnotatedFace]


def clamp_crop(low: np.ndarray, high: np.ndarray, image: np.ndarray) -> Crop:
    """The crop between two corners (2,) px, clamped to 0 … size - 1 of the image."""
    limit = np.array(image.shape[1::-1], np.float64) - 1
    return Crop(np.maximum(low, 0.0), np.minimum(high, limit))


def landmark_crop(points: np.ndarray, scale: float, image: np.ndarray) -> Crop:
    """The bounding box of landmarks (L,2) px, enlarged by `scale` about its centre and clamped to the image.

    Points that are nearly on a line have no useful bounding box. Their crop is a square of ELONGATED_SCALE, whose size
    does not depend on their direction.
    Missing points are NaN and ignored.
    """
    points = points[np.isfinite(points).all(-1)]
    low, high = points.min(0), points.max(0)
    margin = (high - low) * (scale - 1) / 2
    if crops.is_elongated(points):
        margin = (crops.diameter(points) * ELONGATED_SCALE - (high - low)) / 2
    return clamp_crop(low - margin, high + margin, image)


def read_image(path: pathlib.Path) -> np.ndarray:
    """The photo (H,W,3) uint8 BGR in full resolution, upright, decoded as by `photo.load`.

    Raises UserError if the file is missing, and UnreadableImageError if it is truncated or not an image.
    """
    if not path.is_file():
        raise UserError(f"{path}: missing")
    try:
        pixels = photo.load(path, max_kept=None).pixels
    except UserError as error:
        raise UnreadableImageError(str(error)) from error
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
    faces: Iterable[AnnotatedFace | Job],
    count: int = 0,
    meanface_info: tfds.core.DatasetInfo | None = None,
    info: tfds.core.DatasetInfo | None = None,
    any_error: bool = False,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Records of annotated faces.

    Args:
        faces: the faces of a split, or jobs that read them.
        count: number of landmarks; those of faces without annotation are NaN.
        meanface_info: if given, the mean of the valid landmarks in crop units is written to its metadata as "meanface".
        info: if given, a job whose image cannot be decoded is left out and named in the "failed" of its metadata.
        any_error: leave out jobs with any UserError, not only those whose image cannot be decoded.

    Yields:
        (number from 1, record).

    Raises:
        UserError: the split has no face, a face cannot be read and is not left out, or a landmark is missing in all.
    """
    total, counts, number = 0.0, 0, 0
    failed = {}
    for item in faces:
        try:
            face = item if isinstance(item, AnnotatedFace) else item.read()
            record, crop_landmarks, valid = _record(face, count)
        except UserError as error:
            if info is None or not (any_error or isinstance(error, UnreadableImageError)):
                raise
            failed[item.name] = str(error).removeprefix(f"{pathlib.PurePath(item.name).name}: ")
            continue
        number += 1
        total, counts = total + np.where(valid[:, None], crop_landmarks, 0.0), counts + valid
        yield number, record
    if info is not None and failed:
        info.metadata["failed"] = {**info.metadata["failed"], **failed}
    if not number:
        reasons = "".join(f"; the first one, {name}: {reason}" for name, reason in list(failed.items())[:1])
        raise UserError(f"a split of the data set has no face; check that the files are complete{reasons}")
    if meanface_info is not None:
        if not np.all(counts):
            missing = np.flatnonzero(counts == 0)[0]
            raise UserError(f"landmark {missing} (from 0) is missing in all training images; leave it out everywhere")
        meanface_info.metadata["meanface"] = (total / np.reshape(counts, (-1, 1))).ravel().tolist()


def valid_landmarks(example: Mapping[str, np.ndarray]) -> np.ndarray:
    """The annotated landmarks (L,) bool of a record; records of earlier versions have no feature `valid`."""
    return example["valid"] if "valid" in example else np.isfinite(example["landmarks"]).all(-1)


def _record(face: AnnotatedFace, count: int) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """The features of a face, its landmarks (L,2) in crop units and which of them are valid (L,).

    The image is cut to the crop and a margin of half its size; coordinates are relative to it.
    """
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
