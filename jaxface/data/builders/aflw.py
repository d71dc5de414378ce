"""AFLW with 19 landmarks (Köstinger et al., 2011; Zhu et al., CVPR 2016): the Full protocol of AFLWinfo_release.mat.

The first 20,000 faces of its order `ra` are to train on, the rest, if there are more, to test on. PIPNet's crop is the
given box as it is (lib/preprocess.py). Landmarks are held inside the picture and taken as 0-based, as they stand.
"""

import pathlib
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds

from jaxface.data import annotations, faces
from jaxface.errors import UserError

FILE = "AFLWinfo_release.mat"
TRAIN = 20000
TREE = f"{FILE} and flickr/{{0,2,3}}/imageNNNNN.jpg"


def make(variant: str, data_dir: str) -> tfds.core.DatasetBuilder:
    """The builder of "aflw". UserError for a variant."""
    if variant:
        raise UserError(f"aflw has no variant {variant!r}")
    return Aflw(data_dir=data_dir)


class Aflw(tfds.core.GeneratorBasedBuilder):
    """AFLW: 19 landmarks on faces in any pose."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = TREE

    def _info(self) -> tfds.core.DatasetInfo:
        return faces.info(self, "19", 19)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        root = faces.find_root(dl_manager.manual_dir, FILE)
        boxes, shapes, names, order = annotations.read_mat(root / FILE, "bbox", "data", "nameList", "ra")
        order = order.ravel().astype(int) - 1
        names = [str(name.squeeze()) for name in names.ravel()]
        if not len(boxes) == len(shapes) == len(names) or order.max() >= len(names):
            raise UserError(f"{root / FILE}: bbox, data, nameList and ra do not fit together")
        parts = {"train": order[:TRAIN], "test": order[TRAIN:]}
        known = boxes.astype(np.float64), shapes.astype(np.float64), names
        return {split: self._generate_examples(root, split, part, *known) for split, part in parts.items() if len(part)}

    def _generate_examples(
        self, root: pathlib.Path, split: str, order: np.ndarray, boxes: np.ndarray, shapes: np.ndarray, names: list[str]
    ) -> Iterator:
        made = (_face(root, index, boxes[index], shapes[index], names[index]) for index in order)
        return faces.records(made, 19, self.info if split == "train" else None)


def _face(root: pathlib.Path, index: int, box: np.ndarray, shape: np.ndarray, name: str) -> faces.AnnotatedFace:
    picture = faces.read_picture(root / "flickr" / name)
    x0, x1, y0, y1 = box
    points = np.clip(shape.reshape(2, 19).T, 0, picture.shape[1::-1])
    box = np.array([x0, y0, x1, y1])
    crop = faces.clamped(box[:2], box[2:], picture)
    # A photograph can hold several faces.
    return faces.AnnotatedFace(f"{name}#{index + 1}", picture, crop, box, points, crop.units(points))
