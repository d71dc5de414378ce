"""The pinhole camera. Camera space is OpenCV's: millimetres, x right, y down, z forward from the camera.

The head's frame has x to the subject's left, y up and z towards the viewer, so an unturned head faces the camera.
"""

import jax
import jax.numpy as jnp

HEAD_TO_CAMERA = (1.0, -1.0, -1.0)
MIN_DEPTH_MM = 1e-3


def to_camera(vertices: jax.Array, rotation: jax.Array, translation: jax.Array) -> jax.Array:
    """Camera-space points (…,3) mm of head-frame `vertices` (…,3) mm: diag(1,-1,-1) @ (R v) + t.

    rotation (3,3) turns the head in its own frame; translation (3,) mm is where its origin stands before the camera.
    """
    turned = jnp.matmul(vertices, rotation.T, precision="highest")
    return turned * jnp.array(HEAD_TO_CAMERA, turned.dtype) + translation


def project(points: jax.Array, focal_px: jax.Array, center_px: jax.Array) -> jax.Array:
    """Pixels (…,2) of camera-space points (…,3): x right, y down, pixel centres at integers.

    focal_px () and center_px (2,). Points at or behind the camera give far-off finite pixels, so that neither values
    nor gradients become NaN; whether to draw them is decided by their depth.
    """
    depth = jnp.maximum(points[..., 2:], MIN_DEPTH_MM)
    return focal_px * points[..., :2] / depth + center_px
