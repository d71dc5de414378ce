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
POINTS_68 = ("cofw68_test_annotations", "test_annotations")
TREE = "COFW_train_color.mat and COFW_test_color.mat (color version, MATLAB 7.3)"
TREE_68 = f"{TREE}, {BOXES_68} and {POINTS_68[0]}/1_points.mat, 2_points.mat, …"


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
        folder = dl_manager.manual_dir
        paths = {split: faces.find_root(folder, name) / name for split, (name, _) in FILES.items()}
        # PIPNet's tree keeps what is of the 68 landmarks in another folder.
        more = faces.find_root(folder, BOXES_68) if self._variant else None
        return {split: self._generate_examples(path, split, more) for split, path in paths.items()}

    def _generate_examples(self, path: pathlib.Path, split: str, more: pathlib.Path | None) -> Iterator:
        averaged = self.info if split == "train" and not self._variant else None
        return faces.records(self._faces(path, split, more), COUNTS[self._variant], averaged)

    def _faces(self, path: pathlib.Path, split: str, more: pathlib.Path | None) -> Iterator[faces.AnnotatedFace]:
        suffix = FILES[split][1]
        boxes, shapes = annotations.read_mat(path, f"bboxes{suffix}", f"phis{suffix}")
        if more and split == "test":
            (boxes,) = annotations.read_mat(more / BOXES_68, "bboxes")
        for i, picture in enumerate(_pictures(path, f"Is{suffix}", len(boxes))):
            low, size = boxes[i, :2].astype(np.float64), boxes[i, 2:].astype(np.float64)
            margin = size * (SCALES[self._variant] - 1) / 2
            high = low + size - 1
            crop = faces.clamped(low - margin, high + margin, picture)
            box = np.concatenate([low, high]) - 1
            points, visible = shapes[i, :58].reshape(2, 29).T, {"visible": shapes[i, 58:] == 0}
            if more:
                points, visible = _points_68(more, i) if split == "test" else None, {}
            known = {} if points is None else {"landmarks": points - 1, "labels": crop.units(points)}
            yield faces.AnnotatedFace(f"{path.name}#{i + 1}", picture, crop, box, **known, more=visible)


def _points_68(folder: pathlib.Path, i: int) -> np.ndarray:
    """The landmarks (68,2) of test face i, 1-based."""
    found = [folder / name for name in POINTS_68 if (folder / name).is_dir()]
    if not found:
        raise UserError(f"{folder / POINTS_68[0]} is missing")
    (points,) = annotations.read_mat(found[0] / f"{i + 1}_points.mat", "Points")
    return points.astype(np.float64)


def _pictures(path: pathlib.Path, name: str, count: int) -> Iterator[np.ndarray]:
    """The pictures (H,W,3) BGR of a cell array, one after the other; some are grey in the file."""
    with h5py.File(path) as file:
        if name not in file or file[name].size != count:
            raise UserError(f"{path} does not hold one picture in {name} for each of {count} boxes")
        for reference in file[name][()].ravel():
            picture = file[reference][()].T
            code = cv2.COLOR_GRAY2BGR if picture.ndim == 2 else cv2.COLOR_RGB2BGR
            yield cv2.cvtColor(np.ascontiguousarray(picture), code)
