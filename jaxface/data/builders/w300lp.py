"""300W-LP (Zhu et al., CVPR 2016): 61,225 pictures of 300W turned to the side, all parameters, 3D points by your BFM.

Variants: none, or `flipped`, which adds the mirrored pictures of the folders *_Flip.
"""

import pathlib

import numpy as np
import tensorflow_datasets as tfds

from jaxface.data import bfm_landmarks, points3d
from jaxface.errors import UserError

SETS = ("AFW", "HELEN", "IBUG", "LFPW")
TREE = (
    "the contents of 300W-LP.zip ({AFW,HELEN,IBUG,LFPW}[_Flip]/*.jpg with a .mat beside each, landmarks/) and "
    + bfm_landmarks.TREE
)


def make(variant: str, data_dir: str) -> tfds.core.DatasetBuilder:
    """The builder of "w300lp" or "w300lp/flipped". UserError for another variant."""
    if variant not in ("", "flipped"):
        raise UserError(f"w300lp has no variant {variant!r}; there is flipped, and none")
    return W300lp(data_dir=data_dir, config=tfds.core.BuilderConfig(name=variant) if variant else None)


class W300lp(tfds.core.GeneratorBasedBuilder):
    """300W-LP: one split, train."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = TREE

    def _info(self) -> tfds.core.DatasetInfo:
        features = points3d.parameter_features()
        features |= {name: points3d.floats(68, 2) for name in ("landmarks", "landmarks_2d", "landmarks_3d")}
        return points3d.info(self, __doc__, 68, roi=points3d.floats(4), **features)

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        root = pathlib.Path(dl_manager.manual_dir)
        basis = bfm_landmarks.load(root / "bfm")
        folders = [root / name for name in SETS]
        if self.builder_config and self.builder_config.name == "flipped":
            folders += [root / f"{name}_Flip" for name in SETS]
        there = [folder for folder in folders if folder.is_dir()]
        if not there:
            raise UserError(f"{root} has none of the folders {', '.join(SETS)}; expected {TREE}")
        paths = [path for folder in there for path in points3d.pictures_below(folder, "*.jpg", TREE)]
        return {"train": self._generate_examples(root, basis, paths)}

    def _generate_examples(
        self, root: pathlib.Path, basis: bfm_landmarks.Basis, paths: list[pathlib.Path]
    ) -> points3d.Examples:
        for path in paths:
            example, arrays = points3d.fitted(path, basis)
            name = path.relative_to(root).with_suffix("").as_posix()
            known = arrays["pt2d"].reshape(2, 68).T
            yield (
                name,
                {
                    **example,
                    "name": name,
                    "landmarks": known.astype(np.float32),
                    "roi": arrays["roi"].ravel().astype(np.float32),
                    **_labels(root, path, known),
                },
            )


def _labels(root: pathlib.Path, path: pathlib.Path, known: np.ndarray) -> dict[str, np.ndarray]:
    """The corrected landmarks of the folder landmarks, or those of the picture's own file where there are none."""
    folder = path.parent.name.removesuffix("_Flip")
    own = root / "landmarks" / folder / f"{path.stem}_pts.mat"
    arrays = bfm_landmarks.read_mat(own) if own.is_file() else {"pts_2d": known, "pts_3d": known}
    return {f"landmarks_{kind}": arrays[f"pts_{kind}"].reshape(68, 2).astype(np.float32) for kind in ("2d", "3d")}
