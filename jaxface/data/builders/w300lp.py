"""300W-LP (Zhu et al., CVPR 2016): 61,225 images of 300W rotated to profile, with 3DMM parameters.

3D points are computed with the user's Basel Face Model. Without a variant: the folders AFW, HELEN, IBUG and LFPW;
variant `flipped` adds the mirrored images of the folders *_Flip.
"""

import functools
import pathlib
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from jaxface.data import annotations, bfm_landmarks, points3d
from jaxface.data.entries import Entry, read_each
from jaxface.data.faces import float_tensor
from jaxface.errors import UserError

VARIANTS = ("", "flipped")
SETS = ("AFW", "HELEN", "IBUG", "LFPW")
TREE = (
    "the contents of 300W-LP.zip ({AFW,HELEN,IBUG,LFPW}[_Flip]/*.jpg with a .mat file each, landmarks/) and "
    + bfm_landmarks.TREE
)


def make(data_dir: str, variant: str) -> tfds.core.DatasetBuilder:
    """The builder of "w300lp" or "w300lp/flipped"."""
    return W300lp(data_dir=data_dir, config=tfds.core.BuilderConfig(name=variant) if variant else None)


class W300lp(tfds.core.GeneratorBasedBuilder):
    """300W-LP: one split, train."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = TREE

    def _info(self) -> tfds.core.DatasetInfo:
        features = points3d.parameter_features()
        features |= {name: float_tensor(68, 2) for name in ("landmarks", "landmarks_2d", "landmarks_3d")}
        return points3d.info(self, __doc__, 68, roi=float_tensor(4), **features)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        root = pathlib.Path(dl_manager.manual_dir)
        basis = bfm_landmarks.load(root / "bfm")
        folders = [root / name for name in SETS]
        if self.builder_config and self.builder_config.name == "flipped":
            folders += [root / f"{name}_Flip" for name in SETS]
        existing = [folder for folder in folders if folder.is_dir()]
        if not existing:
            raise UserError(f"{root}: has none of the folders {', '.join(SETS)}")
        paths = [path for folder in existing for path in points3d.find_files(folder, "*.jpg")]
        return {"train": self._generate_examples(root, basis, paths)}

    def _generate_examples(
        self, root: pathlib.Path, basis: bfm_landmarks.Basis, paths: list[pathlib.Path]
    ) -> points3d.Examples:
        names = {path.relative_to(root).with_suffix("").as_posix(): path for path in paths}
        entries = (Entry(name, functools.partial(_example, root, name, path, basis)) for name, path in names.items())
        return read_each(entries, self.info)


def _example(root: pathlib.Path, name: str, path: pathlib.Path, basis: bfm_landmarks.Basis) -> dict[str, Any]:
    example, arrays = points3d.parametric_example(path, basis)
    label = path.with_suffix(".mat")
    landmarks = points3d.numbers(arrays, "pt2d", 2 * 68, label).reshape(2, 68).T
    roi = points3d.numbers(arrays, "roi", 4, label).ravel()
    corrected = _corrected_landmarks(root, path, landmarks)
    return {**example, "name": name, "landmarks": landmarks, "roi": roi, **corrected}


def _corrected_landmarks(root: pathlib.Path, path: pathlib.Path, landmarks: np.ndarray) -> dict[str, np.ndarray]:
    """Corrected 2D and projected 3D landmarks from the folder landmarks; `landmarks` (68,2) if it has no such file."""
    folder = path.parent.name.removesuffix("_Flip")
    corrected = root / "landmarks" / folder / f"{path.stem}_pts.mat"
    arrays = {"pts_2d": landmarks, "pts_3d": landmarks}
    if corrected.is_file():
        arrays = annotations.read_mat(corrected, *arrays)
    kinds = ("2d", "3d")
    values = {kind: points3d.numbers(arrays, f"pts_{kind}", 2 * 68, corrected) for kind in kinds}
    return {f"landmarks_{kind}": values[kind].reshape(68, 2) for kind in kinds}
