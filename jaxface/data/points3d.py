"""What the data sets of pictures with 3D points share: features, pictures, and the faces of the 3DDFA layout.

`points_3d` (N,3) px: x right and y down with pixel centres at integers, z towards the viewer in the same unit.
"""

import pathlib
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds

from jaxface import photo
from jaxface.data import bfm_landmarks
from jaxface.errors import UserError

# Names in the .mat file of a picture, ours, and how many numbers.
PARAMETERS = {
    "Pose_Para": ("pose", 7),
    "Shape_Para": ("shape", 199),
    "Exp_Para": ("expression", 29),
    "Illum_Para": ("illumination", 10),
    "Color_Para": ("color", 7),
    "Tex_Para": ("texture", 199),
}
Examples = Iterator[tuple[str, dict]]


def info(builder: tfds.core.DatasetBuilder, description: str, points: int, **features) -> tfds.core.DatasetInfo:
    """Picture, its name and `points` 3D points, and what else a data set has."""
    return tfds.core.DatasetInfo(
        builder=builder,
        description=description,
        features=tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
                "name": tfds.features.Text(),
                "points_3d": floats(points, 3),
                **features,
            }
        ),
    )


def floats(*shape: int | None) -> tfds.features.Tensor:
    """A float32 feature."""
    return tfds.features.Tensor(shape=shape, dtype=np.float32)


def parameter_features() -> dict[str, tfds.features.Tensor]:
    """The features of `fitted`'s parameters."""
    return {name: floats(count) for name, count in PARAMETERS.values()}


def picture(path: pathlib.Path) -> np.ndarray:
    """The pixels (H,W,3) uint8 of a picture. UserError as of `photo.load`."""
    return photo.load(path).pixels


def fitted(path: pathlib.Path, basis: bfm_landmarks.Basis) -> tuple[dict, dict[str, np.ndarray]]:
    """The example of a picture with a .mat file beside it, and that file's arrays.

    The example has image, all PARAMETERS and points_3d from them. UserError: a parameter missing or of another length.
    """
    arrays = bfm_landmarks.read_mat(path.with_suffix(".mat"))
    example = {"image": picture(path)}
    for name, (ours, count) in PARAMETERS.items():
        if name not in arrays or arrays[name].size != count:
            raise UserError(f"{path.with_suffix('.mat')}: {name} must hold {count} numbers; get the file again")
        example[ours] = arrays[name].ravel().astype(np.float32)
    given = (np.float64(example[name]) for name in ("shape", "expression", "pose"))
    example["points_3d"] = basis.points(*given, height=len(example["image"]))
    return example, arrays


def pictures_below(folder: pathlib.Path, pattern: str, expected: str) -> list[pathlib.Path]:
    """The files of `folder` with this pattern, by name. UserError where there is none."""
    found = sorted(folder.glob(pattern))
    if not found:
        raise UserError(f"there is no {pattern} in {folder}; expected {expected}")
    return found
