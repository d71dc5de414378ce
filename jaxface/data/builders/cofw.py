"""COFW (Burgos-Artizzu et al., ICCV 2013): 29 landmarks with occlusion flags, from its MATLAB 7.3 files.

Variant `68` is that of PIPNet's cross-domain protocol: the test faces with 68 landmarks (Ghiasi and Fowlkes, 2015) and
the training faces without landmarks (NaN), crops enlarged 1.3 times (lib/preprocess_gssl.py). Otherwise the crop is the
given box (lib/preprocess.py). The files are 1-based: 1 is subtracted from landmarks and boxes in pixels, but, as in
PIPNet, not from its crop and the landmarks in crop units.
"""

import pathlib
from collections.abc import Iterator

import cv2
import h5py
import numpy as np
import tensorflow_datasets as tfds

from jaxface.data import annotations, faces
from jaxface.errors import UserError

# File and suffix of the variables of each split.
FILES = {"train": ("COFW_train_color.mat", "Tr"), "test": ("COFW_test_color.mat", "T")}
SCALES = {"": 1.0, "68": 1.3}
COUNTS = {"": 29, "68": 68}
VARIANTS = tuple(COUNTS)
BOXES_68 = "cofw68_test_bboxes.mat"
# The folder of 68 landmarks, in PIPNet's tree and as its authors release it.
POINTS_68 = ("cofw68_test_annotations", "test_annotations")
TREE = "COFW_train_color.mat and COFW_test_color.mat (color version, MATLAB 7.3)"
TREE_68 = f"{TREE}, {BOXES_68} and {POINTS_68[0]}/1_points.mat, 2_points.mat, …"


def make(data_dir: str, variant: str) -> tfds.core.DatasetBuilder:
    """The builder of "cofw" or "cofw/68"."""
    return Cofw(data_dir=data_dir, config=tfds.core.BuilderConfig(name=variant) if variant else None)


class Cofw(tfds.core.GeneratorBasedBuilder):
    """COFW: 29 landmarks on occluded faces, or 68 of the test faces."""

    VERSION = tfds.core.Version("1.0.0")

    @property
    def MANUAL_DOWNLOAD_INSTRUCTIONS(self) -> str:
        """The files expected in `manual_dir`."""
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
        # PIPNet's tree keeps the files of the 68 landmarks in a separate folder.
        root_68 = faces.find_root(folder, BOXES_68) if self._variant else None
        return {split: self._generate_examples(path, split, root_68) for split, path in paths.items()}

    def _generate_examples(self, path: pathlib.Path, split: str, root_68: pathlib.Path | None) -> Iterator:
        meanface_info = self.info if split == "train" and not self._variant else None
        return faces.records(self._faces(path, split, root_68), COUNTS[self._variant], meanface_info)

    def _faces(self, path: pathlib.Path, split: str, root_68: pathlib.Path | None) -> Iterator[faces.AnnotatedFace]:
        suffix = FILES[split][1]
        arrays = annotations.read_mat(path, f"bboxes{suffix}", f"phis{suffix}")
        boxes, shapes = arrays[f"bboxes{suffix}"], arrays[f"phis{suffix}"]
        if root_68 and split == "test":
            boxes = annotations.read_mat(root_68 / BOXES_68, "bboxes")["bboxes"]
        for i, image in enumerate(_images(path, f"Is{suffix}", len(boxes))):
            low, size = boxes[i, :2].astype(np.float64), boxes[i, 2:].astype(np.float64)
            margin = size * (SCALES[self._variant] - 1) / 2
            high = low + size - 1
            crop = faces.clamp_crop(low - margin, high + margin, image)
            box = np.concatenate([low, high]) - 1
            points, attributes = shapes[i, :58].reshape(2, 29).T, {"visible": shapes[i, 58:] == 0}
            if root_68:
                points, attributes = _points_68(root_68, i) if split == "test" else None, {}
            labels = {} if points is None else {"landmarks": points - 1, "crop_landmarks": crop.normalise(points)}
            yield faces.AnnotatedFace(f"{path.name}#{i + 1}", image, crop, box, **labels, attributes=attributes)


def _points_68(folder: pathlib.Path, i: int) -> np.ndarray:
    """The landmarks (68,2) of test face i, 1-based."""
    folders = [folder / name for name in POINTS_68 if (folder / name).is_dir()]
    if not folders:
        raise UserError(f"{folder / POINTS_68[0]}: missing")
    return annotations.read_mat(folders[0] / f"{i + 1}_points.mat", "Points")["Points"].astype(np.float64)


def _images(path: pathlib.Path, name: str, count: int) -> Iterator[np.ndarray]:
    """Yields the images (H,W,3) uint8 BGR of a cell array; some are grey in the file."""
    with h5py.File(path) as file:
        if name not in file or file[name].size != count:
            raise UserError(f"{path}: {name} does not hold one image for each of {count} boxes")
        for reference in file[name][()].ravel():
            image = file[reference][()].T
            code = cv2.COLOR_GRAY2BGR if image.ndim == 2 else cv2.COLOR_RGB2BGR
            yield cv2.cvtColor(np.ascontiguousarray(image), code)
