"""3D landmarks from the morphable-model parameters that 300W-LP and AFLW2000-3D come with, by the user's own BFM.

The parameters belong to the Basel Face Model 2009 cut to 53,215 vertices, with the expressions of FaceWarehouse, as in
Zhu et al., CVPR 2016 (3DDFA); conventions as in YadiraF/face3d (morphable_model.py, transform_3ddfa).
"""

import dataclasses
import pathlib

import numpy as np
import scipy.io

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
        """Points (68,3) px: x right, y down in a picture of `height` rows, z towards the viewer.

        shape (I,), expression (E,), pose (7,): pitch, yaw, roll in radians, translation (3,), scale.
        """
        own = self.mean + self.identity @ shape + self.expression @ expression
        placed = pose[6] * own @ rotation(pose[:3]).T + pose[3:6]
        return np.stack([placed[:, 0], height - 1 - placed[:, 1], placed[:, 2]], -1).astype(np.float32)


def rotation(angles: np.ndarray) -> np.ndarray:
    """The matrix (3,3) of pitch, yaw and roll in radians, as 3DDFA multiplies them: about x, y, z, each clockwise."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, cx, sx], [0, -sx, cx]])
    about_y = np.array([[cy, 0, -sy], [0, 1, 0], [sy, 0, cy]])
    about_z = np.array([[cz, sz, 0], [-sz, cz, 0], [0, 0, 1]])
    return about_x @ about_y @ about_z


def load(folder: pathlib.Path) -> Basis:
    """The basis of the files in `folder`. UserError names what is missing, damaged or does not fit."""
    expression, info = (_read(folder / name) for name in ("Model_Exp.mat", "model_info.mat"))
    whole = folder / "01_MorphableModel.mat"
    cut = folder / "Model_Shape.mat"
    if cut.is_file() or not whole.is_file():
        model = _read(cut)
        mean, modes = _entry(model, "mu_shape", cut), _entry(model, "w", cut)
    else:
        model = _read(whole)
        kept = _entry(info, "trimIndex", folder / "model_info.mat").ravel().astype(int) - 1
        mean, modes = (
            np.reshape(value, (len(value) // 3, 3, -1))[kept].reshape(3 * len(kept), -1)
            for value in (_entry(model, "shapeMU", whole), _entry(model, "shapePC", whole))
        )
    keypoints = _entry(info, "keypoints", folder / "model_info.mat").ravel().astype(int) - 1
    mean = mean.ravel() + _entry(expression, "mu_exp", folder / "Model_Exp.mat").ravel()
    try:
        parts = [mean, modes, _entry(expression, "w_exp", folder / "Model_Exp.mat")]
        at = [np.asarray(part, np.float64).reshape(len(mean) // 3, 3, -1)[keypoints] for part in parts]
        return Basis(at[0].reshape(LANDMARKS, 3), at[1], at[2])
    except (ValueError, IndexError) as error:
        raise UserError(f"the files in {folder} do not fit together ({error}); expected {TREE}") from error


def _read(path: pathlib.Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise UserError(f"{path} is missing: 3D points are made of morphable-model parameters; it takes {TREE}")
    return read_mat(path)


def read_mat(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of a Matlab file up to version 7. UserError: missing or damaged."""
    if not path.is_file():
        raise UserError(f"{path} is missing")
    try:
        return scipy.io.loadmat(path)
    except Exception as error:  # readers of damaged files raise whatever they stumble over
        raise UserError(f"{path} is damaged or no Matlab file ({type(error).__name__}: {error})") from error


def _entry(arrays: dict[str, np.ndarray], name: str, path: pathlib.Path) -> np.ndarray:
    if name not in arrays:
        raise UserError(f"{path} has no {name}; expected {TREE}")
    return arrays[name]
