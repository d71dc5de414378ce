"""3DFAW (Jeni et al., ECCV 2016 workshops): images with 66 3D points, those of iBUG without the inner mouth corners.

The challenge's files were not available. The builder reads any folder of images with, for each image, a text file of 66
lines x, y, z px that has the image's name and the ending .csv, _lm.csv or .pts. z increases towards the viewer.
"""

import collections
import pathlib

import numpy as np
import tensorflow_datasets as tfds

from jaxface import photo
from jaxface.data import annotations, image_index, points3d
from jaxface.errors import UserError

POINTS = 66
ENDINGS = ("_lm.csv", ".csv", ".pts")
TREE = "folders train and test (or valid), each with images and for NAME.jpg a NAME_lm.csv of 66 lines x,y,z"


def make(data_dir: str) -> tfds.core.DatasetBuilder:
    """The builder of "faw3d"."""
    return Faw3d(data_dir=data_dir)


class Faw3d(tfds.core.GeneratorBasedBuilder):
    """3DFAW: 66 points."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = TREE

    def _info(self) -> tfds.core.DatasetInfo:
        return points3d.info(self, __doc__, POINTS, valid=points3d.valid_feature(POINTS))

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        root = pathlib.Path(dl_manager.manual_dir)
        folders = {"train": ("train*",), "test": ("test*", "valid*")}
        splits = {name: _labelled_images(root, patterns) for name, patterns in folders.items()}
        if not any(splits.values()):
            raise UserError(f"{root}: has no labelled image")
        return {name: self._generate_examples(root, pairs) for name, pairs in splits.items() if pairs}

    def _generate_examples(
        self, root: pathlib.Path, pairs: list[tuple[pathlib.Path, pathlib.Path]]
    ) -> points3d.Examples:
        for path, label in pairs:
            name = path.relative_to(root).as_posix()
            yield name, {"image": points3d.read_image(path), "name": name, **_read_points(label)}


def _labelled_images(root: pathlib.Path, patterns: tuple[str, ...]) -> list[tuple[pathlib.Path, pathlib.Path]]:
    """(image, point file) pairs below the folders that match.

    The point file is in the folder of the image, or the only one of its name. Raises UserError for an image that may
    have several.
    """
    folders = sorted(folder for pattern in patterns for folder in root.glob(pattern) if folder.is_dir())
    files = [path for folder in folders for path in image_index.walk(folder)]
    by_name = collections.defaultdict(list)
    for path in files:
        by_name[path.name.casefold()].append(path)
    pairs = []
    for path in sorted(files):
        labels = [label for ending in ENDINGS for label in by_name[(path.stem + ending).casefold()]]
        labels = [label for label in labels if label.parent == path.parent] or labels
        if path.suffix.lower() not in photo.IMAGE_SUFFIXES or not labels:
            continue
        if len({label.parent for label in labels}) > 1:
            raise UserError(f"{path}: its points may be in {labels[0]} or {labels[1]}; put them next to the image")
        pairs.append((path, labels[0]))
    return pairs


def _read_points(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The features of a file of 66 points; lines that are not three numbers (a .pts file's frame) are skipped."""
    rows = [line.replace(",", " ").split() for line in annotations.read_text(path).splitlines()]
    try:
        points = np.array([row for row in rows if len(row) == 3], np.float64)
    except ValueError as error:
        raise UserError(f"{path}: not lines of x, y, z ({error})") from error
    if points.shape != (POINTS, 3):
        raise UserError(f"{path}: {len(points)} lines of x, y, z; expected {POINTS}")
    try:
        return points3d.annotation(points)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
