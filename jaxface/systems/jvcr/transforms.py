"""Between a picture's 3D points, the crop's and the volume's, in two ways: the original's exactly, and ours.

Points are (…,N,3): x right and y down in pixels with centres at integers, z in the same unit *away* from the viewer,
with the mean of the 68 points at 0. Annotations and answers have z towards the viewer, as the original's files do.
Every function takes numpy or JAX arrays, batched, and answers in kind.

`reference`: HongwenZhang/JVCR-3Dlandmark, utils/transforms.py. There a depth is one unit too far (z + 1), the way back
is one crop pixel short in x and y, and the crop's centre is at 128 of 0..255. `clean` has neither, and its inverse is
exact.
"""

import jax
import numpy as np

from jaxface.geometry import alignment
from jaxface.layouts import LAYOUT_68

Array = jax.Array | np.ndarray

MODES = ("reference", "clean")
# Pixels that a scale of 1 stands for.
SCALE_PX = 200.0
LANDMARKS = 68
# The points whose means follow the 68: the subject's right eye, its left eye (image right), the mouth.
CENTERS = ((37, 38, 40, 41), (43, 44, 46, 47), (62, 66))


def with_centers(points: Array) -> Array:
    """71 points (…,71,D) of 68: the centres of the image-left eye, the image-right eye and the mouth are appended."""
    xp = alignment.namespace(points)
    centers = [points[..., list(group), :].mean(-2, keepdims=True) for group in CENTERS]
    return xp.concatenate([points, *centers], -2)


def turned_over(points: Array) -> Array:
    """z negated and its mean over the first 68 points taken out: from annotations to the volume's frame and back."""
    xp = alignment.namespace(points)
    z = -points[..., 2:]
    return xp.concatenate([points[..., :2], z - z[..., :LANDMARKS, :].mean(-2, keepdims=True)], -1)


def mirrored(points: Array, x_sum: float) -> Array:
    """Points (…,68,3) of the mirrored picture, in the order of the face there; x becomes x_sum - x."""
    xp = alignment.namespace(points)
    turned = points[..., LAYOUT_68.flip, :]
    return xp.concatenate([x_sum - turned[..., :1], turned[..., 1:]], -1)


def reference_matrix(center: Array, scale: Array, size: int, rotation_deg: Array = 0.0) -> Array:
    """Matrices (…,2,3): the square of 200 * scale px about `center` (…,2) onto 0..size, turned about its centre."""
    xp = alignment.namespace(center, scale, rotation_deg)
    center, angle = xp.asarray(center), xp.deg2rad(xp.asarray(rotation_deg))
    zoom = size / (SCALE_PX * xp.asarray(scale))
    cos, sin = zoom * xp.cos(angle), zoom * xp.sin(angle)
    linear = xp.stack([xp.stack([cos, sin], -1), xp.stack([-sin, cos], -1)], -2)
    offset = size / 2 - alignment.product(linear, center[..., None])
    return xp.concatenate([xp.broadcast_to(linear, (*offset.shape[:-2], 2, 2)), offset], -1)


def encode_reference(
    points: Array, center: Array, scale: Array, size: int, depth: int, rotation_deg: Array = 0.0
) -> Array:
    """Points (…,N,3) of the picture in a crop of `size` px with `depth` slices: transform3d as the loader calls it."""
    xp = alignment.namespace(points, center, scale)
    plane = alignment.apply_affine(reference_matrix(center, scale, size, rotation_deg), points[..., :2])
    zoom = depth / (SCALE_PX * xp.asarray(scale))
    z = zoom[..., None, None] * (points[..., 2:] + 1) + depth / 2
    return xp.concatenate([plane, z], -1)


def decode_reference(points: Array, center: Array, scale: Array, size: int) -> Array:
    """Points (…,N,3) of an unturned crop in the picture: transform_preds of the original's demo."""
    xp = alignment.namespace(points, center, scale)
    back = alignment.invert_affine(reference_matrix(center, scale, size))
    z = (SCALE_PX * xp.asarray(scale) / size)[..., None, None] * (points[..., 2:] - size / 2)
    return xp.concatenate([alignment.apply_affine(back, points[..., :2] - 1), z], -1)


def encode(points: Array, center: Array, side: Array, size: int, angle_rad: Array = 0.0) -> Array:
    """Points (…,N,3) of the picture in the crop `alignment.crop_matrix` makes; z = 0 is the crop's centre."""
    xp = alignment.namespace(points, center, side)
    plane = alignment.apply_affine(alignment.crop_matrix(center, side, size, angle_rad), points[..., :2])
    z = (size / xp.asarray(side))[..., None, None] * points[..., 2:] + (size - 1) / 2
    return xp.concatenate([plane, z], -1)


def decode(points: Array, center: Array, side: Array, size: int, angle_rad: Array = 0.0) -> Array:
    """The inverse of `encode`."""
    xp = alignment.namespace(points, center, side)
    back = alignment.invert_affine(alignment.crop_matrix(center, side, size, angle_rad))
    z = (xp.asarray(side) / size)[..., None, None] * (points[..., 2:] - (size - 1) / 2)
    return xp.concatenate([alignment.apply_affine(back, points[..., :2]), z], -1)


def to_picture(mode: str, points: Array, center: Array, side: Array, size: int) -> Array:
    """Crop points (…,N,3) as annotations have them: in the picture, z towards the viewer with mean 0."""
    if mode == "reference":
        return turned_over(decode_reference(points, center, side / SCALE_PX, size))
    return turned_over(decode(points, center, side, size))
