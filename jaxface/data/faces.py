"""Annotated photos as TFDS records: common code of the builders of 2D landmark data sets.

A record holds the face with its surroundings at the photo's resolution, the landmarks in pixels of that image, and
PIPNet's crop (jhb86253817/PIPNet, lib/preprocess.py) as a rectangle, with the landmarks in units of it for training and
evaluation of that system. PIPNet stores the cropped image; here it is cropped when the record is read, so that other
systems can use more of the image.
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
    """PIPNet's rectangle in pixels of the photo: corners `low`, `high` (2,) float64, x before y.

    Landmarks are normalised by the exact corners. The pixels of the crop are those from the truncated `low` up to the
    truncated `high`, which is excluded.
    """

    low: np.ndarray
    high: np.ndarray

    def normalise(self, points: np.ndarray) -> np.ndarray:
        """Points (L,2) px in units of the crop, 0 to 1 inside it."""
        return (points - self.low) / (self.high - self.low)


@dataclasses.dataclass(frozen=True)
class AnnotatedFace:
    """One face of a data set.

    Attributes:
        name: identifies the face in the original data set, unique within a split.
        image: the photo (H,W,3) uint8, BGR as OpenCV reads it.
        crop: PIPNet's crop.
        box: (4,) x0, y0, x1, y1 px, the data set's own face box.
        landmarks: (L,2) px, pixel centres at integers; None if not annotated.
        crop_landmarks: (L,2) float64 in crop units as PIPNet computes them; None if not annotated.
        attributes: further features, specific to the data set.
    """

    name: str
    image: np.ndarray
    crop: Crop
    box: np.ndarray
    landmarks: np.ndarray | None = None
    crop_landmarks: np.ndarray | None = None
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)


def clamp_crop(low: np.ndarray, high: np.ndarray, image: np.ndarray) -> Crop:
    """The crop between two corners (2,) px, clamped to 0 … size - 1 of the image."""
    limit = np.array(image.shape[1::-1], np.float64) - 1
    return Crop(np.maximum(low, 0.0), np.minimum(high, limit))


def landmark_crop(points: np.ndarray, scale: float, image: np.ndarray) -> Crop:
    """The bounding box of landmarks (L,2) px, enlarged by `scale` about its centre and clamped to the image."""
    low, high = points.min(0), points.max(0)
    margin = (high - low) * (scale - 1) / 2
    return clamp_crop(low - margin, high + margin, image)


def read_image(path: pathlib.Path) -> np.ndarray:
    """The photo (H,W,3) uint8, BGR. Raises UserError if the file is missing or not an image."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR) if path.is_file() else None
    if image is None:
        raise UserError(f"{path}: {'not a readable image' if path.exists() else 'missing'}")
    return image


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
    landmarks in crop units, as PIPNet computes them. name: see `AnnotatedFace`. Missing landmarks are NaN. Metadata:
    `layout`, and `meanface`, 2L float64 x0, y0, x1, … in crop units.

    Args:
        builder: the data set's builder, whose docstring is the description.
        layout: name of the landmark layout, "" for none.
        count: number of landmarks; 0 for none, None if it depends on the files.
        attributes: further features.
    """
    labels = {"landmarks": float_tensor(count, 2), "crop_landmarks": float_tensor(count, 2)} if count != 0 else {}
    features = {
        "image": tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg"),
        "box": float_tensor(4),
        "crop": tfds.features.Tensor(shape=(4,), dtype=np.int32),
        "name": tfds.features.Text(),
        **labels,
        **(attributes or {}),
    }
    return tfds.core.DatasetInfo(
        builder=builder,
        description=builder.__doc__,
        features=tfds.features.FeaturesDict(features),
        metadata=tfds.core.MetadataDict(layout=layout),
    )


def records(
    faces: Iterable[AnnotatedFace], count: int = 0, meanface_info: tfds.core.DatasetInfo | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Records of annotated faces.

    Args:
        faces: the faces of a split.
        count: number of landmarks; those of faces without annotation are NaN.
        meanface_info: if given, the mean of the landmarks in crop units is written to its metadata as "meanface".

    Yields:
        (number from 1, record).

    Raises:
        UserError: the split has no face, or a face box lies outside its image.
    """
    total, number = 0.0, 0
    for face in faces:
        missing = np.full((count, 2), np.nan)
        crop_landmarks = missing if face.crop_landmarks is None else face.crop_landmarks
        landmarks = missing if face.landmarks is None else face.landmarks
        total, number = total + crop_landmarks, number + 1
        yield number, _record(face, landmarks, crop_landmarks)
    if not number:
        raise UserError("a split of the data set has no face; check that the files are complete")
    if meanface_info is not None:
        meanface_info.metadata["meanface"] = (total / number).ravel().tolist()


def _record(face: AnnotatedFace, landmarks: np.ndarray, crop_landmarks: np.ndarray) -> dict[str, Any]:
    """The features of a face: the image cut to the crop and a margin of half its size, coordinates relative to it."""
    height, width = face.image.shape[:2]
    x0, y0, x1, y1 = (int(value) for value in (*face.crop.low, *face.crop.high))
    if not (0 <= x0 < x1 and 0 <= y0 < y1):
        raise UserError(f"{face.name}: the face box {face.box.tolist()} lies outside the {width} x {height} image")
    left, top = max(0, x0 - (x1 - x0) // 2), max(0, y0 - (y1 - y0) // 2)
    region = face.image[top : y1 + (y1 - y0) // 2, left : x1 + (x1 - x0) // 2]
    encoded = cv2.imencode(".jpg", region, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
    origin = np.array([left, top])
    labels = {"landmarks": landmarks - origin, "crop_landmarks": crop_landmarks} if len(crop_landmarks) else {}
    return {
        "image": io.BytesIO(encoded.tobytes()),
        "box": (face.box - np.tile(origin, 2)).astype(np.float32),
        "crop": np.array([x0 - left, y0 - top, x1 - left, y1 - top], np.int32),
        "name": face.name,
        **{name: value.astype(np.float32) for name, value in labels.items()},
        **face.attributes,
    }
