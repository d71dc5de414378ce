"""Random similarity transforms and mirroring of crops and their landmarks, as in the original's data loader.

Source: Deep3DFaceRecon_pytorch, data/flist_dataset.py and data/base_dataset.py.
"""

import numpy as np
from PIL import Image

from jaxface.layouts import LAYOUT_68
from jaxface.systems.deep3d.preprocessing.alignment import REFERENCE_SIZE, flip_y

# Largest random shift per axis (in pixels of the 224 px crop), rotation, and relative change of scale, as published.
MAX_SHIFT_PX = 10
MAX_ROTATION_RAD = np.deg2rad(10.0)
MAX_SCALE_CHANGE = 0.1


def affine_matrix(
    size: int, shift_px: tuple[float, float], rotation_rad: float, scale: float, mirror: bool
) -> np.ndarray:
    """Affine map (3,3) of points in a crop, y down.

    Args:
        size: side of the crop in pixels; rotation, scale and mirroring are about size / 2.
        shift_px: shift (x, y), applied after mirroring and before rotation and scale.
        rotation_rad: angle of the rotation.
        scale: scale factor.
        mirror: whether x is mirrored first.
    """
    cos, sin = np.cos(rotation_rad), np.sin(rotation_rad)
    linear = scale * np.array([[cos, -sin], [sin, cos]])
    center = np.full(2, size / 2)
    mirrored = np.diag([-1.0 if mirror else 1.0, 1.0])
    affine = np.eye(3)
    affine[:2, :2] = linear @ mirrored
    affine[:2, 2] = center + linear @ (np.asarray(shift_px) - mirrored @ center)
    return affine


def random_affine(rng: np.random.Generator, size: int, strength: float = 1.0) -> tuple[np.ndarray, bool]:
    """A random `affine_matrix` of a crop of side `size`, and whether it mirrors, with probability one half.

    strength: factor of the published shift of ±10 px at 224 px, rotation of ±10° and scale of ±10 %.
    """
    shift = strength * rng.integers(-MAX_SHIFT_PX, MAX_SHIFT_PX + 1, 2) * size / REFERENCE_SIZE
    mirror = bool(rng.random() < 0.5)
    rotation = strength * rng.uniform(-MAX_ROTATION_RAD, MAX_ROTATION_RAD)
    scale = 1 + strength * rng.uniform(-MAX_SCALE_CHANGE, MAX_SCALE_CHANGE)
    return affine_matrix(size, tuple(shift), rotation, scale, mirror), mirror


def warp_image(image: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """A crop (S,S[,3]) uint8 under an affine map (3,3), 0 outside. Bicubic, also for masks, as in the original."""
    inverse = np.linalg.inv(affine)[:2].ravel()
    size = image.shape[1], image.shape[0]
    return np.asarray(Image.fromarray(image).transform(size, Image.Transform.AFFINE, inverse, Image.Resampling.BICUBIC))


def warp_landmarks(
    landmarks: np.ndarray, affine: np.ndarray, mirror: bool, size: int, flip: np.ndarray = LAYOUT_68.flip
) -> np.ndarray:
    """Landmarks of a crop under an affine map of its image.

    Args:
        landmarks: (N,2) in pixels of the crop, y up.
        affine: (3,3) map of points with y down.
        mirror: whether the map mirrors; the landmarks are then reordered by `flip`.
        size: side of the crop in pixels.
        flip: (N,) index of each landmark's mirror image.
    """
    warped = flip_y(flip_y(landmarks, size) @ affine[:2, :2].T + affine[:2, 2], size)
    return warped[flip] if mirror else warped
