"""CelebA (Liu et al., ICCV 2015) without landmarks, for PIPNet's self-training: one split, train.

Crops are the boxes detected by PIPNet's author in the images in the wild, with a margin of a tenth on the left, right
and bottom; the top moves down by 0.15 of the height (lib/preprocess_gssl.py).
"""

import functools
import pathlib
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds

from jaxface.data import annotations, faces
from jaxface.data.entries import Entry, leave_out
from jaxface.errors import UserError

FILE = "celeba_bboxes.txt"
SCALE = 1.2
TREE = f"{FILE} (NAME xmin ymin xmax ymax a line, from PIPNet's author) and img_celeba/NAME, the images in the wild"


def make(data_dir: str) -> tfds.core.DatasetBuilder:
    """The builder of "celeba"."""
    return Celeba(data_dir=data_dir)


class Celeba(tfds.core.GeneratorBasedBuilder):
    """CelebA: faces in the wild without landmarks."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = TREE

    def _info(self) -> tfds.core.DatasetInfo:
        return faces.info(self, "", 0)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        root = faces.find_root(dl_manager.manual_dir, FILE)
        rows, problems = annotations.read_rows(root / FILE, 5)
        leave_out(self.info, problems)
        return {"train": self._generate_examples(root, [row for _, row in rows])}

    def _generate_examples(self, root: pathlib.Path, rows: list[list[str]]) -> Iterator:
        return faces.records((Entry(row[0], functools.partial(_face, root, row)) for row in rows), self.info)


def _face(root: pathlib.Path, row: list[str]) -> faces.AnnotatedFace:
    try:
        box = np.array(row[1:], np.float64)
    except ValueError as error:
        raise UserError(f"{root / FILE}: the box of {row[0]} is not four numbers; correct the line") from error
    image = faces.read_image(root / "img_celeba" / row[0])
    size = box[2:] - box[:2] + 1
    margin = size * (SCALE - 1) / 2
    top = size[1] * (SCALE + 0.1 - 1) / 2
    crop = faces.clamp_crop(box[:2] + [-margin[0], top], box[2:] + margin, image)
    return faces.AnnotatedFace(row[0], image, crop, box)
