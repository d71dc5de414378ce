"""3D landmarks from the morphable-model parameters of 300W-LP and AFLW2000-3D, with the user's own Basel Face Model.

The parameters belong to the BFM 2009 cut to 53,215 vertices, with the expressions of FaceWarehouse, as in Zhu et al.,
CVPR 2016 (3DDFA); conventions as in YadiraF/face3d (morphable_model.py, transform_3ddfa).
"""

import dataclasses
import pathlib

import numpy as np

from jaxface.data import annotations
from jaxface.errors import UserError

LANDMARKS = 68
TREE = (
    "a folder bfm with the files of the 3DDFA code of 300W-LP: Model_Exp.mat, model_info.mat (keypoints, trimIndex), "
    "and Model_Shape.mat or the Basel Face Model's own 01_MorphableModel.mat (faces.dmi.unibas.ch)"
)


@dataclasses.dataclass(frozen=True)
class Basis:
    """The model at its 68 landmarks: mean (68,3), identity (68,3,I) and expression (68,3,E), in micrometres."""

    mean: np.ndarray
    identity: np.ndarray
    expression: np.ndarray

    def points(self, shape: np.ndarray, expression: np.ndarray, pose: np.ndarray, height: int) -> np.ndarray:
        """Landmarks (68,3) float32 px: x right, y down, z towards the viewer.

        Args:
            shape: (I,) identity coefficients.
            expression: (E,) expression coefficients.
            pose: (7,) pitch, yaw, roll in radians, translation (3,), scale.
            height: rows of the image, whose last row is y = 0 of the model.
        """
        vertices = self.mean + self.identity @ shape + self.expression @ expression
        posed = pose[6] * vertices @ rotation(pose[:3]).T + pose[3:6]
        return np.stack([posed[:, 0], height - 1 - posed[:, 1], posed[:, 2]], -1).astype(np.float32)


def rotation(angles: np.ndarray) -> np.ndarray:
    """Rotation matrix (3,3) of pitch, yaw and roll in radians in 3DDFA's order: about x, y, z, each clockwise."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, cx, sx], [0, -sx, cx]])
    about_y = np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
    about_z = np.array([[cz, sz, 0], [-sz, cz, 0], [0, 0, 1]])
    return about_x @ about_y @ about_z


def load(folder: pathlib.Path) -> Basis:
    """The basis from the files in `folder`. Raises UserError if a file is missing or damaged, or they do not match."""
    mean_expression, expression = _read(folder / "Model_Exp.mat", "mu_exp", "w_exp")
    mean, identity = _read_shape(folder)
    (keypoints,) = _read(folder / "model_info.mat", "keypoints")
    keypoints = keypoints.ravel().astype(int) - 1
    mean = mean.ravel() + mean_expression.ravel()
    try:
        at_landmarks = [
            np.asarray(part, np.float64).reshape(len(mean) // 3, 3, -1)[keypoints]
            for part in (mean, identity, expression)
        ]
        return Basis(at_landmarks[0].reshape(LANDMARKS, 3), *at_landmarks[1:])
    except (ValueError, IndexError) as error:
        raise UserError(f"{folder}: the files do not match each other ({error}); download all of them again") from error


def _read_shape(folder: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Mean shape (3V,1) and identity modes (3V,I), from 3DDFA's cut model or otherwise the whole BFM 2009."""
    cut, whole = folder / "Model_Shape.mat", folder / "01_MorphableModel.mat"
    if cut.is_file() or not whole.is_file():
        mean, identity = _read(cut, "mu_shape", "w")
        return mean, identity
    (vertices,) = _read(folder / "model_info.mat", "trimIndex")
    vertices = vertices.ravel().astype(int) - 1
    per_vertex = [value.reshape(len(value) // 3, 3, -1)[vertices] for value in _read(whole, "shapeMU", "shapePC")]
    mean, identity = (value.reshape(3 * len(vertices), -1) for value in per_vertex)
    return mean, identity


def _read(path: pathlib.Path, *names: str) -> list[np.ndarray]:
    arrays = annotations.read_mat(path, *names)
    return [arrays[name] for name in names]
