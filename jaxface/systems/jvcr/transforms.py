"""Coordinate transforms of JVCR between image, crop and volume, in two modes: the original's exactly, and ours.

Points are (…,N,3): x right and y down in pixels with centres at integers, z in the same unit *away* from the viewer,
with mean 0 over the 68 landmarks. Annotations and predictions have z towards the viewer, as in the original's files.
All functions take numpy or JAX arrays with batch axes and return the same kind.

`reference`: HongwenZhang/JVCR-3Dlandmark, utils/transforms.py. Its depths are one unit too large (z + 1), its inverse
is one crop pixel short in x and y, and the crop's centre is at 128 of 0..255. `clean` has none of this, and its inverse
is exact.
"""

import jax
import numpy as np

from jaxface.geometry import alignment
from jaxface.layouts import LAYOUT_68

Array = jax.Array | np.ndarray

MODES = ("reference", "clean")
# Pixels per unit of the original's scale.
SCALE_PX = 200.0
LANDMARKS = 68
# Groups whose means follow the 68 landmarks: the subject's right eye, left eye (image right), the mouth.
CENTERS = ((37, 38, 40, 41), (43, 44, 46, 47), (62, 66))


def with_centers(points: Array) -> Array:
    """71 points (…,71,D) of 68: the centres of the image-left eye, the image-right eye and the mouth are appended."""
    xp = alignment.namespace(points)
    centers = [points[..., list(group), :].mean(-2, keepdims=True) for group in CENTERS]
    return xp.concatenate([points, *centers], -2)


def flip_depth(points: Array) -> Array:
    """z negated and centred over the first 68 points: from annotations to the frame of the volume, and back."""
    xp = alignment.namespace(points)
    z = -points[..., 2:]
    return xp.concatenate([points[..., :2], z - z[..., :LANDMARKS, :].mean(-2, keepdims=True)], -1)


def mirror(points: Array, x_sum: float) -> Array:
    """Landmarks (…,68,3) of the mirrored image, renumbered by the flip map; x becomes x_sum - x."""
    xp = alignment.namespace(points)
    renumbered = points[..., LAYOUT_68.flip, :]
    return xp.concatenate([x_sum - renumbered[..., :1], renumbered[..., 1:]], -1)


def reference_matrix(center: Array, scale: Array, size: int, rotation_deg: Array = 0.0) -> Array:
    """Affine maps (…,2,3) of the original from the image to the crop.

    Args:
        center: (…,2) px, centre of the square.
        scale: (…) size of the square in units of 200 px; it is mapped to 0..size.
        size: side of the crop in pixels.
        rotation_deg: (…) rotation about the centre.
    """
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
    """Points of the image in the original's crop and volume: transform3d as the data loader calls it.

    Args:
        points: (…,N,3) in the image.
        center: (…,2) px, centre of the square.
        scale: (…) size of the square in units of 200 px.
        size: side of the crop in pixels.
        depth: number of depth slices.
        rotation_deg: (…) rotation about the centre.

    Returns:
        (…,N,3) x and y in pixels of the crop, z in slices.
    """
    xp = alignment.namespace(points, center, scale)
    plane = alignment.apply_affine(reference_matrix(center, scale, size, rotation_deg), points[..., :2])
    zoom = depth / (SCALE_PX * xp.asarray(scale))
    z = zoom[..., None, None] * (points[..., 2:] + 1) + depth / 2
    return xp.concatenate([plane, z], -1)


def decode_reference(points: Array, center: Array, scale: Array, size: int) -> Array:
    """Points (…,N,3) of an unrotated crop in the image: transform_preds of the original's demo.

    Args:
        points: (…,N,3) in the crop.
        center: (…,2) px, centre of the square.
        scale: (…) size of the square in units of 200 px.
        size: side of the crop in pixels.
    """
    xp = alignment.namespace(points, center, scale)
    back = alignment.invert_affine(reference_matrix(center, scale, size))
    z = (SCALE_PX * xp.asarray(scale) / size)[..., None, None] * (points[..., 2:] - size / 2)
    return xp.concatenate([alignment.apply_affine(back, points[..., :2] - 1), z], -1)


def encode(points: Array, center: Array, side: Array, size: int, angle_rad: Array = 0.0) -> Array:
    """Points (…,N,3) of the image in the crop of `alignment.crop_matrix`; z = 0 becomes the crop's centre.

    Args:
        points: (…,N,3) in the image.
        center: (…,2) px, centre of the square.
        side: (…) px, side of the square.
        size: side of the crop in pixels.
        angle_rad: (…) rotation of the crop.
    """
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


def to_image(mode: str, points: Array, center: Array, side: Array, size: int) -> Array:
    """Points of a crop in the frame of annotations: px of the image, z towards the viewer with mean 0.

    Args:
        mode: "reference" or "clean".
        points: (…,N,3) in pixels of the crop, z away from the viewer.
        center: (…,2) px, centre of the crop in the image.
        side: (…) px, side of the crop in the image.
        size: side of the crop in pixels.
    """
    if mode == "reference":
        return flip_depth(decode_reference(points, center, side / SCALE_PX, size))
    return flip_depth(decode(points, center, side, size))
