"""Menpo 2D (Zafeiriou et al., CVPR Workshops 2017): semi-frontal faces with 68 landmarks, profiles with 39.

Which of the two an image is follows from its number of points; variant `profile` takes the profiles. Splits: the
folders train and test if there are both, otherwise every tenth image is for testing. The files are 1-based. PIPNet's
crop is that of LaPa: the bounding box of the landmarks, enlarged 1.2 times. The layout of the release is known from its
description only: images with a `.pts` file of the same name, in any folders.
"""

import functools
import pathlib
from collections.abc import Iterator

import tensorflow_datasets as tfds

from jaxface.data import annotations, faces, image_index
from jaxface.data.entries import Entry, leave_out
from jaxface.errors import UserError

COUNTS = {"": 68, "profile": 39}
VARIANTS = tuple(COUNTS)
SCALE = 1.2
TEST_EVERY = 10
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png")
TREE = "images NAME.jpg or NAME.png with NAME.pts next to each (68 points, profiles 39), in any folders"


def make(data_dir: str, variant: str) -> tfds.core.DatasetBuilder:
    """The builder of "menpo2d" or "menpo2d/profile"."""
    return Menpo2d(data_dir=data_dir, config=tfds.core.BuilderConfig(name=variant) if variant else None)


class Menpo2d(tfds.core.GeneratorBasedBuilder):
    """Menpo 2D: 68 landmarks on semi-frontal faces, or 39 on profiles."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = TREE

    @property
    def _count(self) -> int:
        return COUNTS[self.builder_config.name if self.builder_config else ""]

    def _info(self) -> tfds.core.DatasetInfo:
        return faces.info(self, str(self._count), self._count)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        root = pathlib.Path(dl_manager.manual_dir)
        folders = {split: root / split for split in ("train", "test")}
        if all(folder.is_dir() for folder in folders.values()):
            labels = {split: self._labels(folder) for split, folder in folders.items()}
        else:
            found = self._labels(root)
            train = [path for number, path in enumerate(found) if number % TEST_EVERY]
            labels = {"train": train, "test": found[::TEST_EVERY]}
        for split, paths in labels.items():
            if not paths:
                raise UserError(f"{root}: no image for the split {split} has {self._count} points in its .pts file")
        return {split: self._generate_examples(root, split, paths) for split, paths in labels.items()}

    def _labels(self, folder: pathlib.Path) -> list[pathlib.Path]:
        """The `.pts` files with the number of points of this variant; those of neither variant are left out."""
        chosen, problems = [], {}
        for path in sorted(path for path in image_index.walk(folder) if path.suffix.lower() == ".pts"):
            try:
                count = len(annotations.read_pts(path))
            except UserError as error:
                problems[path.relative_to(folder).as_posix()] = str(error)
                continue
            if count not in COUNTS.values():
                expected = " or ".join(map(str, COUNTS.values()))
                problems[path.relative_to(folder).as_posix()] = f"{count} points; expected {expected}"
            if count == self._count:
                chosen.append(path)
        leave_out(self.info, problems)
        return chosen

    def _generate_examples(self, root: pathlib.Path, split: str, labels: list[pathlib.Path]) -> Iterator:
        entries = (
            Entry(label.relative_to(root).as_posix(), functools.partial(_face, root, label, self._count))
            for label in labels
        )
        return faces.records(entries, self.info, self._count, meanface=split == "train")


def _face(root: pathlib.Path, label: pathlib.Path, count: int) -> faces.AnnotatedFace:
    candidates = [label.with_suffix(ending) for ending in IMAGE_ENDINGS]
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        raise UserError(f"{label}: has no image of the same name next to it")
    points, image = annotations.read_pts(label, count) - 1, faces.read_image(path)
    crop = faces.landmark_crop(points, SCALE, image)
    box = faces.landmark_box(points)
    return faces.AnnotatedFace(path.relative_to(root).as_posix(), image, crop, box, points, crop.normalise(points))
