"""Microsoft FaceSynthetics (Wood et al., ICCV 2021): 100,000 rendered faces, 70 landmarks, segmentation.

The landmarks are iBUG's 68 and the two pupils, projected from 3D: points behind the face are labelled too, and the jaw
does not follow the silhouette. Every hundredth image, by number, is for testing. PIPNet's crop is that of LaPa: the
bounding box of the landmarks, enlarged 1.2 times. Coordinates are taken as 0-based, as they are in the files.
"""

import functools
import io
import pathlib
from collections.abc import Iterator

import cv2
import numpy as np
import tensorflow_datasets as tfds

from jaxface.data import annotations, faces
from jaxface.data.entries import Entry
from jaxface.errors import UserError

COUNT = 70
SCALE = 1.2
TEST_EVERY = 100
LANDMARKS, SEGMENTATION = "_ldmks.txt", "_seg.png"
TREE = "NNNNNN.png with NNNNNN_seg.png and NNNNNN_ldmks.txt (70 lines x y) each, for example 000000.png"


def make(data_dir: str) -> tfds.core.DatasetBuilder:
    """The builder of "face_synthetics"."""
    return FaceSynthetics(data_dir=data_dir)


class FaceSynthetics(tfds.core.GeneratorBasedBuilder):
    """FaceSynthetics: 70 landmarks, and `segmentation`, the classes 0 to 18 of the pixels, 255 for none."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = TREE

    def _info(self) -> tfds.core.DatasetInfo:
        classes = tfds.features.Image(shape=(None, None, 1), encoding_format="png")
        return faces.info(self, str(COUNT), COUNT, {"segmentation": classes})

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        labels = sorted(pathlib.Path(dl_manager.manual_dir).rglob(f"*{LANDMARKS}"))
        if len(labels) < 2:
            raise UserError(f"{dl_manager.manual_dir}: has {len(labels)} files *{LANDMARKS}; at least 2 are needed")
        train = [path for number, path in enumerate(labels) if number % TEST_EVERY]
        return {
            "train": self._generate_examples("train", train),
            "test": self._generate_examples("test", labels[::TEST_EVERY]),
        }

    def _generate_examples(self, split: str, labels: list[pathlib.Path]) -> Iterator:
        entries = (Entry(path.name.removesuffix(LANDMARKS), functools.partial(_face, path)) for path in labels)
        return faces.records(entries, self.info, COUNT, meanface=split == "train")


def _face(label: pathlib.Path) -> faces.AnnotatedFace:
    numbers = annotations.read_numbers(label)
    if len(numbers) != 2 * COUNT:
        raise UserError(f"{label}: {len(numbers)} numbers; expected {COUNT} lines x y")
    points = numbers.reshape(COUNT, 2)
    stem = label.name.removesuffix(LANDMARKS)
    image = faces.read_image(label.with_name(f"{stem}.png"))
    crop = faces.landmark_crop(points, SCALE, image)
    segmentation = _segmentation(label.with_name(f"{stem}{SEGMENTATION}"), image.shape[:2])[crop.region()]
    encoded = io.BytesIO(cv2.imencode(".png", segmentation)[1].tobytes())
    box = faces.landmark_box(points)
    return faces.AnnotatedFace(
        stem, image, crop, box, points, crop.normalise(points), attributes={"segmentation": encoded}
    )


def _segmentation(path: pathlib.Path, shape: tuple[int, int]) -> np.ndarray:
    """The class of each pixel (H,W) uint8. Raises UserError if the file is missing or of another size."""
    classes = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) if path.is_file() else None
    if classes is None:
        raise UserError(f"{path}: {'not a readable image' if path.exists() else 'missing'}")
    if classes.shape != shape:
        raise UserError(f"{path}: the size is {classes.shape[::-1]}, that of its image {shape[::-1]}; copy it again")
    return classes
