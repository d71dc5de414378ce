"""AFLW2000-3D (Zhu et al., CVPR 2016): 2,000 test faces, all 3DMM parameters, 3D points by the user's BFM."""

import functools
import pathlib
from typing import Any

import tensorflow_datasets as tfds

from jaxface.data import bfm_landmarks, points3d
from jaxface.data.entries import Entry, read_each
from jaxface.data.faces import float_tensor

TREE = "the contents of AFLW2000-3D.zip (image0NNNN.jpg with a .mat file each) and " + bfm_landmarks.TREE


def make(data_dir: str) -> tfds.core.DatasetBuilder:
    """The builder of "aflw2000_3d"."""
    return Aflw20003d(data_dir=data_dir)


class Aflw20003d(tfds.core.GeneratorBasedBuilder):
    """AFLW2000-3D: one split, test. `landmarks` (68,2) and `landmarks_68` (68,3) are the file's, y down; `landmarks_21`
    are AFLW's, -1 if invisible."""

    name = "aflw2000_3d"
    # 1.1.0: `landmarks` are the 68 that every system expects under this name; before, AFLW's 21.
    VERSION = tfds.core.Version("1.1.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = TREE

    def _info(self) -> tfds.core.DatasetInfo:
        features = {"landmarks": float_tensor(68, 2), "landmarks_68": float_tensor(68, 3)}
        features |= {"landmarks_21": float_tensor(21, 2)}
        return points3d.info(self, __doc__, 68, **features, **points3d.parameter_features())

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        root = pathlib.Path(dl_manager.manual_dir)
        basis = bfm_landmarks.load(root / "bfm")
        return {"test": self._generate_examples(basis, points3d.find_files(root, "image*.jpg"))}

    def _generate_examples(self, basis: bfm_landmarks.Basis, paths: list[pathlib.Path]) -> points3d.Examples:
        return read_each((Entry(path.stem, functools.partial(_example, path, basis)) for path in paths), self.info)


def _example(path: pathlib.Path, basis: bfm_landmarks.Basis) -> dict[str, Any]:
    example, arrays = points3d.parametric_example(path, basis)
    shapes = {"landmarks_21": ("pt2d", 21, 2), "landmarks_68": ("pt3d_68", 68, 3)}
    for feature, (variable, points, axes) in shapes.items():
        values = points3d.numbers(arrays, variable, points * axes, path.with_suffix(".mat"))
        example[feature] = values.reshape(axes, points).T
    return {**example, "name": path.stem, "landmarks": example["landmarks_68"][:, :2]}
