"""COFW (Burgos-Artizzu et al., ICCV 2013): 29 landmarks and which of them are occluded, from its MATLAB 7.3 files.

Variant `68` is that of PIPNet's cross-domain protocol: the test faces with 68 landmarks (Ghiasi and Fowlkes, 2015) and
the training faces without labels (NaN), crops enlarged 1.3 times (lib/preprocess_gssl.py). Without variant the crop is
the given box as it is (lib/preprocess.py). Coordinates are 1-based: pixels are less by one, PIPNet's labels not.
"""

import pathlib
from collections.abc import Iterator

import cv2
import h5py
import numpy as np
import tensorflow_datasets as tfds

from jaxface.data import annotations, faces
from jaxface.errors import UserError

FILES = {"train": ("COFW_train_color.mat", "Tr"), "test": ("COFW_test_color.mat", "T")}
SCALES = {"": 1.0, "68": 1.3}
COUNTS = {"": 29, "68": 68}
BOXES_68 = "cofw68_test_bboxes.mat"
TREE = "COFW_train_color.mat and COFW_test_color.mat (color version, MATLAB 7.3)"
TREE_68 = f"{TREE}, {BOXES_68} and cofw68_test_annotations/1_points.mat, 2_points.mat, …"


def make(variant: str, data_dir: str) -> tfds.core.DatasetBuilder:
    """The builder of "cofw" or "cofw/68". UserError for another variant."""
    if variant not in COUNTS:
        raise UserError(f"cofw has no variant {variant!r}; choose cofw or cofw/68")
    return Cofw(data_dir=data_dir, config=tfds.core.BuilderConfig(name=variant) if variant else None)


class Cofw(tfds.core.GeneratorBasedBuilder):
    """COFW: 29 landmarks on occluded faces, or 68 of the test faces."""

    VERSION = tfds.core.Version("1.0.0")

    @property
    def MANUAL_DOWNLOAD_INSTRUCTIONS(self) -> str:
        """What has to lie in `manual_dir`."""
        return TREE_68 if self._variant else TREE

    @property
    def _variant(self) -> str:
        return self.builder_config.name if self.builder_config else ""

    def _info(self) -> tfds.core.DatasetInfo:
        count = COUNTS[self._variant]
        visible = {} if self._variant else {"visible": tfds.features.Tensor(shape=(29,), dtype=np.bool_)}
        return faces.info(self, str(count), count, visible)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        tree = self.MANUAL_DOWNLOAD_INSTRUCTIONS
        root = faces.find_root(dl_manager.manual_dir, FILES["train"][0], tree)
        needed = [FILES["test"][0], *([BOXES_68, "cofw68_test_annotations"] if self._variant else [])]
        for name in needed:
            if not (root / name).exists():
                raise UserError(f"{root / name} is missing; expected {tree}")
        return {split: self._generate_examples(root, split) for split in FILES}

    def _generate_examples(self, root: pathlib.Path, split: str) -> Iterator:
        averaged = self.info if split == "train" and not self._variant else None
        return faces.records(self._faces(root, split), COUNTS[self._variant], averaged)

    def _faces(self, root: pathlib.Path, split: str) -> Iterator[faces.Face]:
        name, suffix = FILES[split]
        boxes, shapes = annotations.read_mat(root / name, f"bboxes{suffix}", f"phis{suffix}")
        if self._variant and split == "test":
            (boxes,) = annotations.read_mat(root / BOXES_68, "bboxes")
        for i, picture in enumerate(_pictures(root / name, f"Is{suffix}", len(boxes))):
            low, size = boxes[i, :2].astype(np.float64), boxes[i, 2:].astype(np.float64)
            margin = size * (SCALES[self._variant] - 1) / 2
            high = low + size - 1
            crop = faces.clamped(low - margin, high + margin, picture)
            points = self._points(root, split, i, shapes)
            box = np.concatenate([low, high]) - 1
            visible = {} if self._variant else {"visible": shapes[i, 58:] == 0}
            known = {} if points is None else {"landmarks": points - 1, "labels": crop.units(points)}
            yield faces.Face(f"{name}#{i + 1}", picture, crop, box, **known, more=visible)

    def _points(self, root: pathlib.Path, split: str, i: int, shapes: np.ndarray) -> np.ndarray | None:
        """The landmarks (L,2) of face i as the files have them; None where there are no 68."""
        if not self._variant:
            return shapes[i, :58].reshape(2, 29).T
        if split == "train":
            return None
        (points,) = annotations.read_mat(root / "cofw68_test_annotations" / f"{i + 1}_points.mat", "Points")
        return points.astype(np.float64)


def _pictures(path: pathlib.Path, name: str, count: int) -> Iterator[np.ndarray]:
    """The pictures (H,W,3) BGR of a cell array, one after the other; some are grey in the file."""
    with h5py.File(path) as file:
        if name not in file or file[name].size != count:
            raise UserError(f"{path} does not hold one picture in {name} for each of {count} boxes; expected {TREE}")
        for reference in file[name][()].ravel():
            picture = file[reference][()].T
            code = cv2.COLOR_GRAY2BGR if picture.ndim == 2 else cv2.COLOR_RGB2BGR
            yield cv2.cvtColor(np.ascontiguousarray(picture), code)
