"""Pinhole camera. Camera space is OpenCV's: millimetres, x right, y down, z forward from the camera.

The head frame has x to the subject's left, y up and z towards the viewer: with identity rotation the head faces the
camera.
"""

import jax
import jax.numpy as jnp

# Diagonal of the matrix from head axes to camera axes.
HEAD_TO_CAMERA = (1.0, -1.0, -1.0)
# Lower bound of the depth in `project`.
MIN_DEPTH_MM = 1e-3


def to_camera(vertices: jax.Array, rotation: jax.Array, translation: jax.Array) -> jax.Array:
    """Camera-space points (…,3) mm of head-frame `vertices` (…,3) mm: diag(1,-1,-1) @ (R v) + t.

    `rotation` (3,3) acts in the head frame; `translation` (3,) mm is the head's origin in camera space.
    """
    rotated = jnp.matmul(vertices, rotation.T, precision="highest")
    return rotated * jnp.array(HEAD_TO_CAMERA, rotated.dtype) + translation


def project(points: jax.Array, focal_px: jax.Array, center_px: jax.Array) -> jax.Array:
    """Perspective projection of camera-space points (…,3) to pixels (…,2), pixel centres at integers.

    focal_px () and center_px (2,). Depth is clamped to `MIN_DEPTH_MM`, so that points at or behind the camera give
    finite pixels and gradients; callers cull them by depth.
    """
    depth = jnp.maximum(points[..., 2:], MIN_DEPTH_MM)
    return focal_px * points[..., :2] / depth + center_px
