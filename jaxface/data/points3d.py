"""Common code of the builders of 3D landmark data sets: features, image reading, and annotations by 3DMM parameters.

`points_3d` (N,3) px: x right and y down with pixel centres at integers, z towards the viewer in the same unit.
"""

import pathlib
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds

from jaxface import photo
from jaxface.data import annotations, bfm_landmarks
from jaxface.data.faces import float_tensor
from jaxface.errors import UserError

# {variable in the .mat file of an image: (our feature, length)}.
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
    """Description and features of a data set: image, name, points_3d (`points`,3), and `features`.

    Metadata: `failed`, the reason by name of each image that was left out.
    """
    common = {
        "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
        "name": tfds.features.Text(),
        "points_3d": float_tensor(points, 3),
    }
    return tfds.core.DatasetInfo(
        builder=builder,
        description=description,
        features=tfds.features.FeaturesDict({**common, **features}),
        metadata=tfds.core.MetadataDict(failed={}),
    )


def parameter_features() -> dict[str, tfds.features.Tensor]:
    """The features of the parameters that `parametric_example` reads."""
    return {name: float_tensor(count) for name, count in PARAMETERS.values()}


def read_image(path: pathlib.Path) -> np.ndarray:
    """The pixels (H,W,3) uint8 RGB of an image file in full resolution. Raises UserError as `photo.load`."""
    return photo.load(path, max_kept=None).pixels


def annotation(points: np.ndarray, source: object) -> dict[str, np.ndarray]:
    """The features points_3d (N,3) float32, NaN for missing points, and valid (N,) bool of points (N,3) of a file.

    Raises UserError, about `source`, if all points are missing.
    """
    valid = ~annotations.missing(points[:, :2]) & np.isfinite(points).all(-1)
    if not valid.any():
        raise UserError(f"{source}: all points are missing; correct them")
    return {"points_3d": np.where(valid[:, None], points, np.nan).astype(np.float32), "valid": valid}


def valid_feature(count: int) -> tfds.features.Tensor:
    """The feature `valid` of `annotation`."""
    return tfds.features.Tensor(shape=(count,), dtype=np.bool_)


def parametric_example(
    path: pathlib.Path, basis: bfm_landmarks.Basis
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The example of an image with morphable-model parameters in a .mat file of the same name.

    Args:
        path: the image.
        basis: the morphable model at its landmarks.

    Returns:
        (the example with image, all PARAMETERS and the points_3d computed from them, the arrays of the .mat file).

    Raises:
        UserError: a parameter is missing or has another length.
    """
    parameters = path.with_suffix(".mat")
    arrays = annotations.read_mat(parameters)
    example = {"image": read_image(path)}
    for name, (feature, count) in PARAMETERS.items():
        example[feature] = numbers(arrays, name, count, parameters).ravel()
    shape, expression, pose = (np.float64(example[name]) for name in ("shape", "expression", "pose"))
    example["points_3d"] = basis.points(shape, expression, pose, height=len(example["image"]))
    return example, arrays


def numbers(arrays: dict[str, np.ndarray], name: str, count: int, path: pathlib.Path) -> np.ndarray:
    """The variable `name` of a .mat file as float32. Raises UserError if it does not hold `count` finite numbers."""
    try:
        values = np.asarray(arrays[name], np.float32)
    except (KeyError, ValueError, TypeError):
        values = np.zeros(0, np.float32)
    if values.size != count or not np.isfinite(values).all():
        raise UserError(f"{path}: {name} must hold {count} numbers; download the file again")
    return values


def find_files(folder: pathlib.Path, pattern: str) -> list[pathlib.Path]:
    """The files of `folder` that match a pattern, sorted. Raises UserError if there are none."""
    paths = sorted(folder.glob(pattern))
    if not paths:
        raise UserError(f"{folder}: has no {pattern}")
    return paths
