"""LaPa (Liu et al., AAAI 2020): 106 landmarks, from the release's folders. Splits: train, val, test.

PIPNet's repository trains on it without including the preparation; its author gives the rule: the bounding box of the
landmarks, enlarged 1.2 times (issue 41). As for WFLW, this is a margin of a tenth on each side, clamped to the image.
Coordinates are taken as 0-based, as they are in the files.
"""

import functools
import pathlib
from collections.abc import Iterator

import tensorflow_datasets as tfds

from jaxface.data import annotations, faces
from jaxface.data.entries import Entry
from jaxface.errors import UserError

SPLITS = ("train", "val", "test")
SCALE = 1.2
TREE = "{train,val,test}/images/NAME.jpg and {train,val,test}/landmarks/NAME.txt (106, then a line x y per point)"


def make(data_dir: str) -> tfds.core.DatasetBuilder:
    """The builder of "lapa"."""
    return Lapa(data_dir=data_dir)


class Lapa(tfds.core.GeneratorBasedBuilder):
    """LaPa: 106 landmarks."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = TREE

    def _info(self) -> tfds.core.DatasetInfo:
        return faces.info(self, "106", 106)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        root = faces.find_root(dl_manager.manual_dir, "train/landmarks")
        for split in SPLITS:
            if not (root / split / "landmarks").is_dir():
                raise UserError(f"{root / split / 'landmarks'}: missing")
        return {split: self._generate_examples(root / split, split) for split in SPLITS}

    def _generate_examples(self, folder: pathlib.Path, split: str) -> Iterator:
        paths = sorted((folder / "landmarks").glob("[!.]*.txt"))
        entries = (Entry(path.stem, functools.partial(_face, folder, path)) for path in paths)
        return faces.records(entries, self.info, 106, meanface=split == "train")


def _face(folder: pathlib.Path, path: pathlib.Path) -> faces.AnnotatedFace:
    numbers = annotations.read_numbers(path)
    if len(numbers) != 1 + 2 * 106 or numbers[0] != 106:
        raise UserError(f"{path}: does not hold 106 and 106 points; copy it again")
    points = numbers[1:].reshape(106, 2)
    image = faces.read_image(folder / "images" / f"{path.stem}.jpg")
    crop = faces.landmark_crop(points, SCALE, image)
    box = faces.landmark_box(points)
    return faces.AnnotatedFace(path.stem, image, crop, box, points, crop.normalise(points))
