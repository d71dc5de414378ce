"""300-W (Sagonas et al., 2013): 68 landmarks on AFW, HELEN, LFPW and iBUG, from the folders as they are released.

Splits: train (AFW, HELEN and LFPW trainsets), test (HELEN and LFPW testsets, iBUG), and its parts test_common and
test_challenge (iBUG). PIPNet's crop is the bounding box of the landmarks, enlarged 1.1 times, in variant `gssl` 1.3
times (lib/preprocess.py, lib/preprocess_gssl.py); it truncates coordinates to integers and takes them as 0-based.
"""

import functools
import pathlib
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds

from jaxface.data import annotations, faces
from jaxface.data.entries import Entry, unusable
from jaxface.errors import UserError

TRAIN = ("afw", "helen/trainset", "lfpw/trainset")
COMMON = ("helen/testset", "lfpw/testset")
CHALLENGE = ("ibug",)
SPLITS = {"train": TRAIN, "test": COMMON + CHALLENGE, "test_common": COMMON, "test_challenge": CHALLENGE}
SCALES = {"": 1.1, "gssl": 1.3}
VARIANTS = tuple(SCALES)
TREE = "afw/, helen/{trainset,testset}/, lfpw/{trainset,testset}/ and ibug/, each with NAME.jpg or .png and NAME.pts"


def make(data_dir: str, variant: str) -> tfds.core.DatasetBuilder:
    """The builder of "300w" or "300w/gssl"."""
    return Ibug300w(data_dir=data_dir, config=tfds.core.BuilderConfig(name=variant) if variant else None)


def integer_crop(points: np.ndarray, scale: float, image: np.ndarray) -> faces.Crop:
    """PIPNet's crop of integer points (L,2): whole pixels, one pixel short of the image's right and lower edge."""
    low = points.min(0)
    size = points.max(0) - low
    low = np.maximum(low - ((scale - 1) / 2 * size).astype(int), 0)
    size = np.minimum((size * scale).astype(int), np.array(image.shape[1::-1]) - low - 1)
    return faces.Crop(low.astype(np.float64), (low + size).astype(np.float64))


class Ibug300w(tfds.core.GeneratorBasedBuilder):
    """300-W: 68 landmarks in the wild."""

    name = "300w"
    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = TREE

    def _info(self) -> tfds.core.DatasetInfo:
        return faces.info(self, "68", 68)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        root = faces.find_root(dl_manager.manual_dir, "ibug")
        return {split: self._generate_examples(root, split) for split in SPLITS}

    def _generate_examples(self, root: pathlib.Path, split: str) -> Iterator:
        return faces.records(self._entries(root, split), self.info, 68, meanface=split == "train")

    def _entries(self, root: pathlib.Path, split: str) -> Iterator[Entry[faces.AnnotatedFace]]:
        scale = SCALES[self.builder_config.name if self.builder_config else ""]
        for folder in SPLITS[split]:
            for stem, (label, photo) in _pairs(root / folder).items():
                if label is None or photo is None:
                    yield unusable(f"{folder}/{stem}", f"has no {'.pts' if label is None else 'image'}")
                    continue
                name = photo.relative_to(root).as_posix()
                yield Entry(name, functools.partial(_face, name, label, photo, scale))


def _face(name: str, label: pathlib.Path, photo: pathlib.Path, scale: float) -> faces.AnnotatedFace:
    points = annotations.read_pts(label, 68)
    if not np.isfinite(points).all():
        raise UserError(f"{label}: a point is missing; copy the file again")
    image = faces.read_image(photo)
    truncated = points.astype(int)
    crop = integer_crop(truncated, scale, image)
    landmarks = points - 1
    box = np.concatenate([landmarks.min(0), landmarks.max(0)])
    return faces.AnnotatedFace(name, image, crop, box, landmarks, crop.normalise(truncated))


def _pairs(folder: pathlib.Path) -> dict[str, tuple[pathlib.Path | None, pathlib.Path | None]]:
    """(.pts file, photo) by name without blanks (one name has one), None for a file that is missing.

    Raises UserError if the folder is missing.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: missing")
    stem = {path: path.stem.replace(" ", "") for path in sorted(folder.iterdir()) if not path.name.startswith(".")}
    photos = {stem[path]: path for path in stem if path.suffix.lower() in (".jpg", ".jpeg", ".png")}
    labels = {stem[path]: path for path in stem if path.suffix.lower() == ".pts"}
    unlabelled = [name for name in photos if name not in labels]
    return {name: (labels.get(name), photos.get(name)) for name in (*labels, *unlabelled)}
