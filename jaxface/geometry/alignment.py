"""Planar and spatial alignment: least-squares similarity, square face crops, affine maps of points.

Every function accepts numpy or JAX arrays and returns the same kind, so that host code and compiled code share them.
Pixel coordinates have x right, y down and pixel centres at integers.
"""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array | np.ndarray

# Side of the face crop over the mean of the box's width and height: hairline, ears and chin stay inside.
SIDE_PER_BOX = 1.3


def namespace(*values: object) -> types.ModuleType:
    """jax.numpy if any value is a JAX array (tracers included), else numpy."""
    return jnp if any(isinstance(value, jax.Array) for value in values) else np


def product(a: Array, b: Array) -> Array:
    """a @ b for small matrices in full precision: accelerators round the operands of a matmul to 8-11 bits."""
    return (a[..., :, :, None] * b[..., None, :, :]).sum(-2)


def similarity(source: Array, target: Array) -> tuple[Array, Array, Array]:
    """Least-squares similarity target = scale * R @ source + t (Umeyama, PAMI 1991, eq. 39-42).

    Args:
        source, target: corresponding points (…,N,D).

    Returns:
        (scale (…), R (…,D,D), t (…,D)); R is a rotation without reflection. Coincident source points give scale 1.
    """
    xp = namespace(source, target)
    source, target = xp.asarray(source), xp.asarray(target)
    source_mean, target_mean = source.mean(-2), target.mean(-2)
    centered = source - source_mean[..., None, :]
    covariance = product(xp.swapaxes(target - target_mean[..., None, :], -1, -2), centered) / source.shape[-2]
    u, singular, vt = xp.linalg.svd(covariance)
    last = xp.where(xp.linalg.det(u) * xp.linalg.det(vt) < 0, -1.0, 1.0)[..., None]
    signs = xp.concatenate([xp.ones_like(singular[..., :-1]), last.astype(singular.dtype)], -1)
    rotation = product(u * signs[..., None, :], vt)
    variance = (centered**2).sum(-1).mean(-1)
    scale = xp.where(variance > 0, (singular * signs).sum(-1) / xp.where(variance > 0, variance, 1), 1)
    translation = target_mean - scale[..., None] * product(rotation, source_mean[..., None])[..., 0]
    return scale, rotation, translation


@dataclasses.dataclass(frozen=True)
class Similarity:
    """Similarity transform x -> scale * rotation @ x + translation of numpy points (…,3)."""

    scale: float
    rotation: np.ndarray
    translation: np.ndarray

    def __call__(self, points: np.ndarray) -> np.ndarray:
        return self.scale * points @ self.rotation.T + self.translation

    def inverse(self, points: np.ndarray) -> np.ndarray:
        """Inverse transform of points (…,3)."""
        return (points - self.translation) @ self.rotation / self.scale

    def matrix(self) -> np.ndarray:
        """Homogeneous matrix (4,4)."""
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = self.scale * self.rotation, self.translation
        return matrix


def square_crop(box: Array) -> tuple[Array, Array]:
    """(centre (…,2), side (…)) px of the square face crop of boxes (…,4) x0, y0, x1, y1; it may leave the image."""
    xp = namespace(box)
    box = xp.asarray(box)
    low, high = box[..., :2], box[..., 2:]
    return (low + high) / 2, SIDE_PER_BOX * (high - low).mean(-1)


def crop_matrix(center: Array, side: Array, size: int, angle_rad: Array = 0.0) -> Array:
    """Affine matrices (…,2,3) from image pixels to the pixels of a `size` x `size` crop.

    Args:
        center: (…,2) px, centre of the square in the image.
        side: (…) px, side of the square.
        size: side of the crop in pixels.
        angle_rad: (…) angle of the square's upper edge; a face whose eye line has this angle is upright in the crop.
    """
    xp = namespace(center, side, angle_rad)
    center, scale, angle = xp.asarray(center), size / xp.asarray(side), xp.asarray(angle_rad)
    cos, sin = scale * xp.cos(angle), scale * xp.sin(angle)
    linear = xp.stack([cos, sin, -sin, cos], -1).reshape(*cos.shape, 2, 2)
    offset = (size - 1) / 2 - product(linear, center[..., None])
    if linear.ndim < offset.ndim:
        linear = xp.broadcast_to(linear, (*offset.shape[:-2], 2, 2))
    return xp.concatenate([linear, offset], -1)


def apply_affine(matrix: Array, points: Array) -> Array:
    """Applies affine matrices (…,D,D+1) to points (…,N,D)."""
    xp = namespace(matrix, points)
    matrix, points = xp.asarray(matrix), xp.asarray(points)
    return product(points, xp.swapaxes(matrix[..., :-1], -1, -2)) + matrix[..., None, :, -1]


def invert_affine(matrix: Array) -> Array:
    """Inverses (…,D,D+1) of affine matrices (…,D,D+1)."""
    xp = namespace(matrix)
    matrix = xp.asarray(matrix)
    linear = xp.linalg.inv(matrix[..., :-1])
    return xp.concatenate([linear, -product(linear, matrix[..., -1:])], -1)
