"""3DFAW (Jeni et al., ECCV 2016 workshops): images with 66 3D points, those of iBUG without the inner mouth corners.

The challenge's files were not available. The builder reads any folder of images with, for each image, a text file of 66
lines x, y, z px that has the image's name and the ending .csv, _lm.csv or .pts. z increases towards the viewer.
"""

import pathlib

import numpy as np
import tensorflow_datasets as tfds

from jaxface.data import points3d
from jaxface.errors import UserError

POINTS = 66
ENDINGS = ("_lm.csv", ".csv", ".pts")
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png")
TREE = "folders train and test (or valid), each with images and for NAME.jpg a NAME_lm.csv of 66 lines x,y,z"


def make(data_dir: str) -> tfds.core.DatasetBuilder:
    """The builder of "faw3d"."""
    return Faw3d(data_dir=data_dir)


class Faw3d(tfds.core.GeneratorBasedBuilder):
    """3DFAW: 66 points."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = TREE

    def _info(self) -> tfds.core.DatasetInfo:
        return points3d.info(self, __doc__, POINTS)

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
            yield name, {"image": points3d.read_image(path), "name": name, "points_3d": _read_points(label)}


def _labelled_images(root: pathlib.Path, patterns: tuple[str, ...]) -> list[tuple[pathlib.Path, pathlib.Path]]:
    """(image, point file) pairs below the folders that match; the two files may be in different folders."""
    folders = [folder for pattern in patterns for folder in root.glob(pattern)]
    files = {path.name: path for folder in folders for path in folder.rglob("*.*")}
    pairs = []
    for path in sorted(files.values()):
        label = next((files[path.stem + ending] for ending in ENDINGS if path.stem + ending in files), None)
        if path.suffix.lower() in IMAGE_ENDINGS and label:
            pairs.append((path, label))
    return pairs


def _read_points(path: pathlib.Path) -> np.ndarray:
    """The points (66,3) of a file; lines that are not three numbers (a .pts file's frame) are skipped."""
    rows = [line.replace(",", " ").split() for line in path.read_text().splitlines()]
    try:
        points = np.array([row for row in rows if len(row) == 3], np.float32)
    except ValueError as error:
        raise UserError(f"{path}: not lines of x, y, z ({error})") from error
    if points.shape != (POINTS, 3):
        raise UserError(f"{path}: {len(points)} lines of x, y, z; expected {POINTS}")
    return points
