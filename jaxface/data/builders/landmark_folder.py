"""The user's own folder: images with any number of landmarks, in the label files that `label_files` reads.

`landmark_folder/NAME` names the data set, so that several can be prepared. Splits: two lists with train and test in
their names, or the folders train and test if both hold label files; otherwise every tenth face is for testing. Text
files are 0-based, `.pts` files 1-based. PIPNet's crop is that of LaPa: the bounding box of the landmarks, enlarged 1.2
times. The metadata also hold "flip", the flip map: from flip.txt, or estimated from the mean face.

A face that cannot be used is left out and named, with the reason, under "failed" of the metadata. Missing points are
marked in the feature `valid`.
"""

import collections
import functools
import pathlib
import re
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow_datasets as tfds

from jaxface.data import annotations, faces, image_index, label_files, symmetry
from jaxface.data.entries import Entry, leave_out
from jaxface.errors import UserError, shortened

# Any name.
VARIANTS = None
FLIP = "flip.txt"
SPLITS = ("train", "test")
TEST_EVERY = 10
SCALE = 1.2
TREE = (
    "a folder of images with one text or CSV file, a line NAME x0 y0 x1 y1 … per face (or train.txt and test.txt), "
    "or with NAME.pts next to each image, labelme's JSON files, COCO keypoints or dlib's XML"
)
# Words in the names of lists that tell the split.
TRAIN_WORDS, TEST_WORDS = {"train", "training"}, {"test", "testing", "val", "valid", "validation"}

# Name of a face, its image and its label.
Found = tuple[str, pathlib.Path, label_files.Label]
Contents = dict[pathlib.Path, label_files.Labels]


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
        splits, problems = read_splits(root)
        leave_out(self.info, problems)
        return {split: self._generate_examples(root, split, found) for split, found in splits.items()}

    def _generate_examples(self, root: pathlib.Path, split: str, found: list[Found]) -> Iterator:
        entries = [Entry(name, functools.partial(_face, name, path, label)) for name, path, label in found]
        yield from faces.records(entries, self.info, meanface=split == "train")
        if split == "train":
            self.info.metadata["flip"] = _flip(root, np.reshape(self.info.metadata["meanface"], (-1, 2)))


def read_splits(root: pathlib.Path) -> tuple[dict[str, list[Found]], dict[str, str]]:
    """The faces of the splits train and test, and the reasons of the entries that cannot be used.

    Raises UserError if the folder has no labels, labels in several formats, or fewer than two that can be used.
    """
    contents = _read_labels(root)
    sources = _split_sources(root, contents)
    problems = {where: reason for labels in contents.values() for where, reason in labels.problems.items()}
    labels = label_files.order_named([label for content in contents.values() for label in content.labels])
    labels = _with_common_count(labels, problems)
    found = _find_images(image_index.ImageIndex(root), labels, problems)
    if sources:
        splits = {split: [face for face in found if face[2].source in sources[split]] for split in SPLITS}
    else:
        train = [face for number, face in enumerate(found) if number % TEST_EVERY]
        splits = {"train": train, "test": found[::TEST_EVERY]}
    if not all(splits.values()):
        noun = "image" if len(found) == 1 else "images"
        example = "".join(f"; {where}: {reason}" for where, reason in list(problems.items())[:1])
        raise UserError(f"{root}: {len(found)} labelled {noun}; at least 2 are needed{example}")
    return splits, problems


def _read_labels(root: pathlib.Path) -> Contents:
    """The content of the label files by path, all of one format.

    Files that are not labels are ignored. Text files are those of the folder itself, or of folders below it if it has
    none. Raises UserError if there is no label file, or files of several formats.
    """
    contents = {}
    for path in sorted(image_index.walk(root)):
        labels = None if path.name == FLIP else label_files.read(path)
        if labels is not None:
            contents[path] = labels
    texts = {path for path, labels in contents.items() if labels.form == label_files.TEXT}
    at_root = {path for path in texts if path.parent == root}
    nested = texts - at_root if at_root else set()
    contents = {path: labels for path, labels in contents.items() if path not in nested}
    forms = sorted({labels.form for labels in contents.values() if labels.labels})
    if len(forms) > 1:
        raise UserError(f"{root}: has labels in several formats ({', '.join(forms)}); keep the files of one")
    if not contents:
        raise UserError(f"{root}: has neither a text file nor .pts files nor other labels")
    return {path: labels for path, labels in contents.items() if not forms or labels.form in forms}


def _split_sources(root: pathlib.Path, contents: Contents) -> dict[str, set[pathlib.Path]]:
    """The label files of each split; {} for no split.

    Raises UserError for several lists that are not one for training and one for testing.
    """
    form = next(iter(contents.values())).form
    if form not in label_files.LISTS:
        folders = {split: {path for path in contents if path.relative_to(root).parts[0] == split} for split in SPLITS}
        return folders if all(folders.values()) else {}
    if len(contents) == 1:
        return {}
    words = {path: set(re.split(r"[^a-z]+", path.stem.lower())) for path in contents}
    sources = {
        "train": {path for path in contents if words[path] & TRAIN_WORDS},
        "test": {path for path in contents if words[path] & TEST_WORDS},
    }
    if len(contents) != 2 or [len(paths) for paths in sources.values()] != [1, 1] or sources["train"] & sources["test"]:
        names = ", ".join(path.name for path in contents)
        raise UserError(f"{root}: several {form} ({names}); keep one, or train.txt and test.txt")
    return sources


def _with_common_count(labels: Sequence[label_files.Label], problems: dict[str, str]) -> list[label_files.Label]:
    """The labels with the most frequent number of landmarks; the others are added to `problems`."""
    counts = collections.Counter(len(label.points) for label in labels)
    common = counts.most_common(1)[0][0] if counts else 0
    for label in labels:
        if len(label.points) != common:
            problems[label.where] = f"{len(label.points)} landmarks; expected {common}"
    return [label for label in labels if len(label.points) == common]


def _find_images(
    index: image_index.ImageIndex, labels: Sequence[label_files.Label], problems: dict[str, str]
) -> list[Found]:
    """The image of each label; labels without one, or that may mean several, are added to `problems`.

    The second face of an image is named NAME#2.
    """
    paths, names = {}, collections.defaultdict(set)
    for label in labels:
        try:
            path = _find_image(index, label)
        except UserError as error:
            problems[label.where] = f"{shortened(label.image)}: {error}" if label.image else str(error)
            continue
        paths[label.where, id(label)] = path
        names[path].add(image_index.normalise(label.image))
    found: list[Found] = []
    faces_of: collections.Counter = collections.Counter()
    for label in labels:
        path = paths.get((label.where, id(label)))
        if path is None:
            continue
        if len(names[path]) > 1:
            first, second, *_ = sorted(names[path])
            problems[label.where] = f"{first} and {second} both lead to {path.name}; write paths from the folder"
            continue
        faces_of[path] += 1
        name = path.relative_to(index.root).as_posix() if path.is_relative_to(index.root) else path.as_posix()
        found.append((f"{name}#{faces_of[path]}" if faces_of[path] > 1 else name, path, label))
    return found


def _find_image(index: image_index.ImageIndex, label: label_files.Label) -> pathlib.Path:
    if not label.image:
        return index.beside(label.source)
    try:
        return index.find(label.image, label.source)
    except UserError:
        # Tools write the path of another computer into labelme's files.
        if not label.source.suffix.lower() == ".json":
            raise
        return index.beside(label.source)


def _face(name: str, path: pathlib.Path, label: label_files.Label) -> faces.AnnotatedFace:
    image = faces.read_image(path)
    points, size = label.points, np.array(image.shape[1::-1])
    if label.size is not None and tuple(label.size) != tuple(size):
        width, height = label.size
        raise UserError(
            f"labelled as {width} x {height}, but the upright image is {size[0]} x {size[1]}; label it again"
        )
    valid = np.isfinite(points).all(-1)
    if not valid.any():
        raise UserError("no landmark is annotated; label it again")
    outside = np.flatnonzero(valid & ~((points >= -1) & (points <= size)).all(-1))
    if len(outside):
        position = ", ".join(f"{value:g}" for value in points[outside[0]])
        raise UserError(f"landmark {outside[0]} at ({position}) lies outside the {size[0]} x {size[1]} image")
    low, high = points[valid].min(0), points[valid].max(0)
    if (high - low).max() < 2:
        raise UserError(f"the landmarks span {high - low} px, expected 2 or more; give them in pixels")
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
