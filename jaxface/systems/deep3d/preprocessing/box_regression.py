"""The small network that gives the square in which the original's 68-point detector looks, from five points.

Source: Deep3DFaceRecon_pytorch, util/preprocess.py; its weights are the file util/BBRegressorParam_r.mat there.
"""

import os

import numpy as np
import scipy.io

from jaxface.errors import UserError

SHAPES = {"W1": (200, 10), "B1": (200, 1), "W2": (3, 200), "B2": (3, 1)}
DETECTOR_SIZE = 224

Parameters = dict[str, np.ndarray]


def read_parameters(path: str | os.PathLike) -> Parameters:
    """W1 (200,10), B1 (200,1), W2 (3,200) and B2 (3,1) of BBRegressorParam_r.mat. UserError: not that file."""
    try:
        found = scipy.io.loadmat(path)
    except (OSError, ValueError, NotImplementedError, TypeError, scipy.io.matlab.MatReadError) as error:
        raise UserError(
            f"{path} cannot be read as a MATLAB file; give the original's BBRegressorParam_r.mat"
        ) from error
    wrong = [name for name, shape in SHAPES.items() if np.size(found.get(name, ())) != np.prod(shape)]
    if wrong:
        raise UserError(
            f"{path} has no {', '.join(wrong)} of the right size; give the original's BBRegressorParam_r.mat"
        )
    return {name: np.asarray(found[name], np.float64).reshape(shape) for name, shape in SHAPES.items()}


def detector_box(five: np.ndarray, parameters: Parameters) -> np.ndarray:
    """Left, top, width and height (4,) px, unrounded, of the detector's square around five points (5,2), y down.

    UserError where the points coincide.
    """
    five = np.asarray(five, np.float64)
    middle = five.mean(0)
    spread = np.sqrt(((five - middle) ** 2).sum() / len(five))
    if not spread > 0:
        raise UserError("the five points of the face coincide")
    points = ((five - middle) / spread).reshape(-1, 1)
    hidden = np.tanh(parameters["W1"] @ points + parameters["B1"])
    *corner, scale = (parameters["W2"] @ hidden + parameters["B2"])[:, 0]
    side = DETECTOR_SIZE / scale * spread
    return np.array([*(np.array(corner) * spread + middle), side, side])
