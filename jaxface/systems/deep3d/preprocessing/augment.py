"""Random shift, turn, size and mirroring of crops with their landmarks, as the original's loader does it.

Source: Deep3DFaceRecon_pytorch, data/flist_dataset.py and data/base_dataset.py.
"""

import numpy as np
from PIL import Image

from jaxface.layouts import LAYOUT_68
from jaxface.systems.deep3d.preprocessing.alignment import REFERENCE_SIZE, flip_y

SHIFT_PX = 10  # at REFERENCE_SIZE
TURN_RAD = np.deg2rad(10.0)
SCALE = 0.1


def affine_matrix(size: int, shift_px: tuple[float, float], turn_rad: float, scale: float, mirror: bool) -> np.ndarray:
    """The map (3,3) of places in a crop, y down: mirrored, then shifted, then turned and resized about size / 2."""
    cos, sin = np.cos(turn_rad), np.sin(turn_rad)
    linear = scale * np.array([[cos, -sin], [sin, cos]])
    about = np.full(2, size / 2)
    mirrored = np.diag([-1.0 if mirror else 1.0, 1.0])
    affine = np.eye(3)
    affine[:2, :2] = linear @ mirrored
    affine[:2, 2] = about + linear @ (np.asarray(shift_px) - mirrored @ about)
    return affine


def random_affine(rng: np.random.Generator, size: int, share: float = 1.0) -> tuple[np.ndarray, bool]:
    """A random map as in `matrix`, and whether it mirrors, as every second does.

    Shift, turn and change of size are `share` of the published ±10 px at 224, ±10°, ±10 %.
    """
    shift = share * rng.integers(-SHIFT_PX, SHIFT_PX + 1, 2) * size / REFERENCE_SIZE
    mirror = bool(rng.random() < 0.5)
    turn, scale = share * rng.uniform(-TURN_RAD, TURN_RAD), 1 + share * rng.uniform(-SCALE, SCALE)
    return affine_matrix(size, tuple(shift), turn, scale, mirror), mirror


def warp_image(image: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """A crop (S,S[,3]) uint8 under a map (3,3), bicubic, 0 where nothing was; masks too, as in the original."""
    back = np.linalg.inv(affine)[:2].ravel()
    size = image.shape[1], image.shape[0]
    return np.asarray(Image.fromarray(image).transform(size, Image.Transform.AFFINE, back, Image.Resampling.BICUBIC))


def warp_landmarks(
    landmarks: np.ndarray, affine: np.ndarray, mirror: bool, size: int, flip: np.ndarray = LAYOUT_68.flip
) -> np.ndarray:
    """Landmarks (N,2), y up, under a map of the crop; after mirroring the points have each other's names, by `flip`."""
    moved = flip_y(flip_y(landmarks, size) @ affine[:2, :2].T + affine[:2, 2], size)
    return moved[flip] if mirror else moved
