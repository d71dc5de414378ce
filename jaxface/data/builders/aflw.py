"""AFLW with 19 landmarks (Köstinger et al., 2011; Zhu et al., CVPR 2016): the Full protocol of AFLWinfo_release.mat.

The first 20,000 faces in its order `ra` are for training, the rest for testing. PIPNet's crop is the given box
(lib/preprocess.py). Landmarks are clamped to the image and taken as 0-based, as they are in the file.
"""

import functools
import pathlib
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds

from jaxface.data import annotations, faces
from jaxface.data.entries import Entry
from jaxface.errors import UserError

FILE = "AFLWinfo_release.mat"
TRAIN = 20000
TREE = f"{FILE} and flickr/{{0,2,3}}/imageNNNNN.jpg"


def make(data_dir: str) -> tfds.core.DatasetBuilder:
    """The builder of "aflw"."""
    return Aflw(data_dir=data_dir)


class Aflw(tfds.core.GeneratorBasedBuilder):
    """AFLW: 19 landmarks on faces in any pose."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = TREE

    def _info(self) -> tfds.core.DatasetInfo:
        return faces.info(self, "19", 19)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        root = faces.find_root(dl_manager.manual_dir, FILE)
        arrays = annotations.read_mat(root / FILE, "bbox", "data", "nameList", "ra")
        boxes, shapes = arrays["bbox"].astype(np.float64), arrays["data"].astype(np.float64)
        names = [str(name.squeeze()) for name in arrays["nameList"].ravel()]
        order = arrays["ra"].ravel().astype(int) - 1
        if not len(boxes) == len(shapes) == len(names) or order.max() >= len(names):
            raise UserError(f"{root / FILE}: bbox, data, nameList and ra do not have matching lengths")
        splits = {"train": order[:TRAIN], "test": order[TRAIN:]}
        return {
            split: self._generate_examples(root, split, part, boxes, shapes, names)
            for split, part in splits.items()
            if len(part)
        }

    def _generate_examples(
        self, root: pathlib.Path, split: str, order: np.ndarray, boxes: np.ndarray, shapes: np.ndarray, names: list[str]
    ) -> Iterator:
        entries = [
            # A photo can show several faces: the index makes the name unique.
            Entry(name := f"{names[i]}#{i + 1}", functools.partial(_face, root, name, boxes[i], shapes[i], names[i]))
            for i in order
        ]
        return faces.records(entries, self.info, 19, meanface=split == "train")


def _face(root: pathlib.Path, name: str, box: np.ndarray, shape: np.ndarray, file: str) -> faces.AnnotatedFace:
    image = faces.read_image(root / "flickr" / file)
    x0, x1, y0, y1 = box
    points = np.clip(shape.reshape(2, 19).T, 0, image.shape[1::-1])
    box = np.array([x0, y0, x1, y1])
    crop = faces.clamp_crop(box[:2], box[2:], image)
    return faces.AnnotatedFace(name, image, crop, box, points, crop.normalise(points))
