"""The files of 3DFAW (Jeni et al., ECCV 2016 workshops): images, each with 66 3D points. Loads no TensorFlow.

The challenge's files were not available. Read is any folder of images with, for each image, a text file of 66 lines x,
y, z px that has the image's name and the ending .csv, _lm.csv or .pts. z increases towards the viewer. The points are
those of iBUG without the inner mouth corners.
"""

import pathlib

import numpy as np

from jaxface.errors import UserError

POINTS = 66
# iBUG's points that 3DFAW leaves out.
ABSENT = (60, 64)
ENDINGS = ("_lm.csv", ".csv", ".pts")
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png")
TREE = "folders train and test (or valid), each with images and for NAME.jpg a NAME_lm.csv of 66 lines x,y,z"
# Folders of each split.
FOLDERS = {"train": ("train*",), "test": ("test*", "valid*")}


def labelled_images(root: pathlib.Path, patterns: tuple[str, ...]) -> list[tuple[pathlib.Path, pathlib.Path]]:
    """(image, point file) pairs below the folders that match; the two files may be in different folders."""
    folders = [folder for pattern in patterns for folder in root.glob(pattern)]
    files = {path.name: path for folder in folders for path in folder.rglob("*.*")}
    pairs = []
    for path in sorted(files.values()):
        label = next((files[path.stem + ending] for ending in ENDINGS if path.stem + ending in files), None)
        if path.suffix.lower() in IMAGE_ENDINGS and label:
            pairs.append((path, label))
    return pairs


def read_points(path: pathlib.Path) -> np.ndarray:
    """The points (66,3) float32 of a file; lines that are not three numbers (a .pts file's frame) are skipped.

    Raises UserError if the lines are not 66 points.
    """
    rows = [line.replace(",", " ").split() for line in path.read_text().splitlines()]
    try:
        points = np.array([row for row in rows if len(row) == 3], np.float32)
    except ValueError as error:
        raise UserError(f"{path}: not lines of x, y, z ({error})") from error
    if points.shape != (POINTS, 3):
        raise UserError(f"{path}: {len(points)} lines of x, y, z; expected {POINTS}")
    return points
