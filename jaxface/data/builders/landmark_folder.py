"""The user's own folder: images with any number of landmarks, in one text file or in `.pts` files.

`landmark_folder/NAME` names the data set, so that several can be prepared. Splits: train.txt and test.txt, or the
folders train and test if they hold `.pts` files; otherwise every tenth image is for testing. Text files are 0-based,
`.pts` files 1-based. PIPNet's crop is that of LaPa: the bounding box of the landmarks, enlarged 1.2 times. The metadata
also hold "flip", the flip map: from flip.txt, or estimated from the mean face. To read a changed folder again, remove
the prepared data set.
"""

import pathlib
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds

from jaxface.data import annotations, faces, symmetry
from jaxface.errors import UserError

# Any name.
VARIANTS = None
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
LISTS = {"train.txt", "test.txt"}
FLIP = "flip.txt"
TEST_EVERY = 10
SCALE = 1.2
TREE = (
    "a folder of images with one text file, a line NAME x0 y0 x1 y1 … per image (or train.txt and test.txt), "
    "or with NAME.pts next to each image"
)

Labelled = list[tuple[pathlib.Path, np.ndarray]]


def make(data_dir: str, variant: str) -> tfds.core.DatasetBuilder:
    """The builder of "landmark_folder" or "landmark_folder/NAME"."""
    return LandmarkFolder(data_dir=data_dir, config=tfds.core.BuilderConfig(name=variant) if variant else None)


class LandmarkFolder(tfds.core.GeneratorBasedBuilder):
    """The user's own images with landmarks."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = TREE

    def _info(self) -> tfds.core.DatasetInfo:
        return faces.info(self, "own", None)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        root = pathlib.Path(dl_manager.manual_dir)
        splits = _splits(root)
        counts = {len(points) for _, points in splits["train"] + splits["test"]}
        if len(counts) != 1:
            raise UserError(f"{root}: train and test have different numbers of landmarks, {sorted(counts)}")
        return {split: self._generate_examples(root, split, labelled) for split, labelled in splits.items()}

    def _generate_examples(self, root: pathlib.Path, split: str, labelled: Labelled) -> Iterator:
        annotated = (_face(root, path, points) for path, points in labelled)
        yield from faces.records(annotated, meanface_info=self.info if split == "train" else None)
        if split == "train":
            self.info.metadata["flip"] = _flip(root, np.reshape(self.info.metadata["meanface"], (-1, 2)))


def _splits(root: pathlib.Path) -> dict[str, Labelled]:
    """The images of each split with their landmarks (L,2), pixel centres at integers."""
    texts = {path.name: path for path in sorted(root.glob("*.txt")) if path.name != FLIP}
    if LISTS <= texts.keys():
        return {split: _from_text(root, texts[f"{split}.txt"]) for split in ("train", "test")}
    if len(texts) > 1:
        raise UserError(f"{root}: several text files ({', '.join(texts)}); keep one, or train.txt and test.txt")
    if not texts and all(any((root / split).rglob("*.pts")) for split in ("train", "test")):
        return {split: _from_pts(root / split) for split in ("train", "test")}
    labelled = _from_text(root, *texts.values()) if texts else _from_pts(root)
    if len(labelled) < 2:
        raise UserError(f"{root}: {len(labelled)} labelled image; at least 2 are needed")
    test = labelled[::TEST_EVERY]
    return {"train": [pair for i, pair in enumerate(labelled) if i % TEST_EVERY], "test": test}


def _from_text(root: pathlib.Path, path: pathlib.Path) -> Labelled:
    """Images and landmarks in the order of the lines.

    Raises UserError for a line that is not a name and as many pairs of numbers as in the first line.
    """
    labelled: Labelled = []
    for number, (name, *values) in annotations.read_lines(path):
        try:
            points = np.array(values, np.float64).reshape(-1, 2)
        except ValueError as error:
            raise UserError(f"{path}, line {number}: not NAME and pairs of numbers ({error})") from error
        if not values:
            raise UserError(f"{path}, line {number}: {name} has no landmarks")
        if labelled and len(points) != len(labelled[0][1]):
            raise UserError(f"{path}, line {number}: {len(points)} landmarks; expected {len(labelled[0][1])}")
        labelled.append((_image_path(root, name), points))
    if not labelled:
        raise UserError(f"{path}: the file is empty")
    return labelled


def _from_pts(root: pathlib.Path) -> Labelled:
    """Images and landmarks sorted by name.

    Raises UserError if there is no `.pts` file, or one has no image or another number of points than the first.
    """
    labels = sorted(root.rglob("*.pts"))
    if not labels:
        raise UserError(f"{root}: has neither a text file nor .pts files")
    count = len(annotations.read_pts(labels[0]))
    labelled = []
    for label in labels:
        candidates = [label.with_suffix(ending) for ending in (*IMAGE_ENDINGS, *map(str.upper, IMAGE_ENDINGS))]
        image = next((path for path in candidates if path.is_file()), None)
        if image is None:
            raise UserError(f"{label}: has no image of the same name next to it")
        labelled.append((image, annotations.read_pts(label, count) - 1))
    return labelled


def _image_path(root: pathlib.Path, name: str) -> pathlib.Path:
    """The image of a line: relative to the folder, or anywhere in it by its file name."""
    if (root / name).is_file():
        return root / name
    paths = sorted(root.rglob(pathlib.Path(name).name))
    if not paths:
        raise UserError(f"{root / name}: missing")
    return paths[0]


def _face(root: pathlib.Path, path: pathlib.Path, points: np.ndarray) -> faces.AnnotatedFace:
    image = faces.read_image(path)
    name, size = path.relative_to(root).as_posix(), np.array(image.shape[1::-1])
    outside = np.flatnonzero(~((points >= -1) & (points <= size)).all(-1))
    if len(outside):
        position = ", ".join(f"{value:g}" for value in points[outside[0]])
        raise UserError(f"{name}: landmark {outside[0]} at ({position}) lies outside the {size[0]} x {size[1]} image")
    low, high = points.min(0), points.max(0)
    if (high - low < 2).any():
        raise UserError(f"{name}: the landmarks span {high - low} px, expected 2 or more; give them in pixels")
    crop = faces.landmark_crop(points, SCALE, image)
    return faces.AnnotatedFace(name, image, crop, np.concatenate([low, high]), points, crop.normalise(points))


def _flip(root: pathlib.Path, meanface: np.ndarray) -> list[int]:
    """The flip map of flip.txt, or by the mean face's symmetry. Raises UserError if the file is not a flip map."""
    path = root / FLIP
    if not path.is_file():
        return symmetry.find_flip(meanface).tolist()
    flip = annotations.read_numbers(path)
    indices = np.arange(len(meanface))
    if sorted(flip) != indices.tolist() or (flip[flip.astype(int)] != indices).any():
        raise UserError(f"{path}: not a flip map; list {len(indices)} landmark numbers from 0 that swap in pairs")
    return flip.astype(int).tolist()
