"""The files of 3DFAW (Jeni et al., ECCV 2016 workshops): images, each with 66 3D points. Loads no TensorFlow.

The challenge's files were not available. Read is any folder of images with, for each image, a text file of 66 lines x,
y, z px that has the image's name and the ending .csv, _lm.csv or .pts. z increases towards the viewer. The points are
those of iBUG without the inner mouth corners.
"""

import collections
import pathlib

import numpy as np

from jaxface import photo
from jaxface.data import annotations, image_index
from jaxface.errors import UserError

POINTS = 66
# iBUG's points that 3DFAW leaves out.
ABSENT = (60, 64)
ENDINGS = ("_lm.csv", ".csv", ".pts")
TREE = "folders train and test (or valid), each with images and for NAME.jpg a NAME_lm.csv of 66 lines x,y,z"
# Folders of each split.
FOLDERS = {"train": ("train*",), "test": ("test*", "valid*")}


def labelled_images(
    root: pathlib.Path, patterns: tuple[str, ...]
) -> tuple[list[tuple[pathlib.Path, pathlib.Path]], dict[str, str]]:
    """(image, point file) pairs below the folders that match, and the reasons by image that may have several.

    The point file is in the folder of the image, or the only one of its name.
    """
    folders = sorted(folder for pattern in patterns for folder in root.glob(pattern) if folder.is_dir())
    files = sorted(path for folder in folders for path in image_index.walk(folder))
    by_name = collections.defaultdict(list)
    for path in files:
        by_name[path.name.casefold()].append(path)
    pairs, problems = [], {}
    for path in files:
        labels = [label for ending in ENDINGS for label in by_name[(path.stem + ending).casefold()]]
        labels = [label for label in labels if label.parent == path.parent] or labels
        if path.suffix.lower() not in photo.IMAGE_SUFFIXES or not labels:
            continue
        if len({label.parent for label in labels}) > 1:
            reason = f"its points may be in {labels[0]} or {labels[1]}; put them next to the image"
            problems[path.relative_to(root).as_posix()] = reason
            continue
        pairs.append((path, labels[0]))
    return pairs, problems


def read_points(path: pathlib.Path) -> np.ndarray:
    """The points (66,3) float32 of a file; lines that are not three numbers (a .pts file's frame) are skipped.

    Raises UserError if the lines are not 66 points.
    """
    rows = [line.replace(",", " ").split() for line in annotations.read_text(path).splitlines()]
    try:
        points = np.array([row for row in rows if len(row) == 3], np.float32)
    except ValueError as error:
        raise UserError(f"{path}: not lines of x, y, z ({error}); copy it again") from error
    if points.shape != (POINTS, 3):
        raise UserError(f"{path}: {len(points)} lines of x, y, z; expected {POINTS}")
    return points
