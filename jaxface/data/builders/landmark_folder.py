"""A folder of your own: pictures with landmarks of any number, in one text file or in `.pts` files.

`landmark_folder/NAME` gives the data set a name of its own, so that several can lie beside each other. Splits: those of
train.txt and test.txt, or of the folders train and test where they hold `.pts` files, else every tenth picture is to
test on. Text counts pixels from 0, `.pts` files from 1. PIPNet's crop is that of LaPa: the smallest rectangle around
the landmarks, enlarged 1.2 times. The metadata also hold "flip", which landmark becomes which in a mirrored picture:
found from the mean face, unless flip.txt lists it. To read a changed folder again, remove what was prepared of it.
"""

import pathlib
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds

from jaxface.data import annotations, faces, symmetry
from jaxface.errors import UserError

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
LISTS = {"train.txt", "test.txt"}
FLIP = "flip.txt"
TEST_EVERY = 10
SCALE = 1.2
TREE = (
    "a folder of pictures with one text file, a line NAME x0 y0 x1 y1 … per picture (or train.txt and test.txt), "
    "or with NAME.pts beside each picture"
)

Labelled = list[tuple[pathlib.Path, np.ndarray]]


def make(variant: str, data_dir: str) -> tfds.core.DatasetBuilder:
    """The builder of "landmark_folder" or "landmark_folder/NAME"."""
    return LandmarkFolder(data_dir=data_dir, config=tfds.core.BuilderConfig(name=variant) if variant else None)


class LandmarkFolder(tfds.core.GeneratorBasedBuilder):
    """Your own pictures with landmarks."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = TREE

    def _info(self) -> tfds.core.DatasetInfo:
        return faces.info(self, "own", None)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        root = pathlib.Path(dl_manager.manual_dir)
        splits = _splits(root)
        counts = {len(points) for _, points in splits["train"] + splits["test"]}
        if len(counts) != 1:
            raise UserError(f"train and test of {root} have different numbers of landmarks: {sorted(counts)}")
        return {split: self._generate_examples(root, split, labelled) for split, labelled in splits.items()}

    def _generate_examples(self, root: pathlib.Path, split: str, labelled: Labelled) -> Iterator:
        made = (_face(root, path, points) for path, points in labelled)
        yield from faces.records(made, averaged=self.info if split == "train" else None)
        if split == "train":
            self.info.metadata["flip"] = _flip(root, np.reshape(self.info.metadata["meanface"], (-1, 2)))


def _splits(root: pathlib.Path) -> dict[str, Labelled]:
    """The pictures of each split with their landmarks (L,2), pixel centres at integers."""
    texts = {path.name: path for path in sorted(root.glob("*.txt")) if path.name != FLIP}
    if LISTS <= texts.keys():
        return {split: _from_text(root, texts[f"{split}.txt"]) for split in ("train", "test")}
    if len(texts) > 1:
        raise UserError(f"{root} has several text files ({', '.join(texts)})")
    if not texts and all(any((root / split).rglob("*.pts")) for split in ("train", "test")):
        return {split: _from_pts(root / split) for split in ("train", "test")}
    labelled = _from_text(root, *texts.values()) if texts else _from_pts(root)
    if len(labelled) < 2:
        raise UserError(f"{root} has {len(labelled)} labelled pictures, and needs at least 2")
    test = labelled[::TEST_EVERY]
    return {"train": [one for i, one in enumerate(labelled) if i % TEST_EVERY], "test": test}


def _from_text(root: pathlib.Path, path: pathlib.Path) -> Labelled:
    """In the order of the lines. UserError for a line that is no name and as many pairs as the first line."""
    labelled: Labelled = []
    for number, (name, *values) in annotations.read_lines(path):
        try:
            points = np.array(values, np.float64).reshape(-1, 2)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: not NAME and pairs of numbers ({error})") from error
        if not values:
            raise UserError(f"{path}, line {number}: {name} has no landmarks")
        if labelled and len(points) != len(labelled[0][1]):
            raise UserError(f"{path}, line {number}: {len(points)} landmarks where {len(labelled[0][1])} are expected")
        labelled.append((_picture(root, name), points))
    if not labelled:
        raise UserError(f"{path} is empty")
    return labelled


def _from_pts(root: pathlib.Path) -> Labelled:
    """Sorted by name. UserError where there is none, or one has no picture or another number of points."""
    labels = sorted(root.rglob("*.pts"))
    if not labels:
        raise UserError(f"{root} has neither a text file nor .pts files")
    first = len(annotations.read_pts(labels[0]))
    labelled = []
    for label in labels:
        beside = [label.with_suffix(ending) for ending in (*PICTURES, *map(str.upper, PICTURES))]
        found = [path for path in beside if path.is_file()]
        if not found:
            raise UserError(f"{label} has no picture beside it")
        labelled.append((found[0], annotations.read_pts(label, first) - 1))
    return labelled


def _picture(root: pathlib.Path, name: str) -> pathlib.Path:
    """The picture of a line: below the folder, or anywhere in it by its file name."""
    if (root / name).is_file():
        return root / name
    found = sorted(root.rglob(pathlib.Path(name).name))
    if not found:
        raise UserError(f"{root / name} is missing")
    return found[0]


def _face(root: pathlib.Path, path: pathlib.Path, points: np.ndarray) -> faces.AnnotatedFace:
    picture = faces.read_picture(path)
    name, size = path.relative_to(root).as_posix(), np.array(picture.shape[1::-1])
    wrong = np.flatnonzero(~((points >= -1) & (points <= size)).all(-1))
    if len(wrong):
        place = ", ".join(f"{value:g}" for value in points[wrong[0]])
        raise UserError(f"{name}: landmark {wrong[0]} at ({place}) lies outside the {size[0]} x {size[1]} picture")
    low, high = points.min(0), points.max(0)
    if (high - low < 2).any():
        raise UserError(f"{name}: its landmarks span {high - low} pixels; give them in pixels, at least two apart")
    margin = (high - low) * (SCALE - 1) / 2
    crop = faces.clamped(low - margin, high + margin, picture)
    return faces.AnnotatedFace(name, picture, crop, np.concatenate([low, high]), points, crop.units(points))


def _flip(root: pathlib.Path, meanface: np.ndarray) -> list[int]:
    """What flip.txt lists, else what the mean face's symmetry gives. UserError where the list is no flip map."""
    path = root / FLIP
    if not path.is_file():
        return symmetry.find_flip(meanface).tolist()
    flip = annotations.read_numbers(path)
    places = np.arange(len(meanface))
    if sorted(flip) != places.tolist() or (flip[flip.astype(int)] != places).any():
        raise UserError(f"{path} must list {len(places)} numbers from 0: the landmark that each becomes, in pairs")
    return flip.astype(int).tolist()
