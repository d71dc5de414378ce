"""A mesh seen from somewhere, as points: each pixel's place on the surface and its normal. Lengths are millimetres."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxface.geometry import mesh, raster

GOLDEN_ANGLE_RAD = np.pi * (3 - 5**0.5)
# Meshes are padded to these multiples, so that one compiled renderer serves many.
VERTEX_STEP, TRIANGLE_STEP = 16384, 32768
# Fewer windows than the rasteriser's own: they are compiled for each size of picture, and used a few times only.
WINDOWS = (8, 64)


class View(NamedTuple):
    """points and normals (H,W,3) mm and unit in the mesh's own frame, 0 where nothing is hit; hit (H,W) bool.

    Normals are those of the flat triangles, and point as their winding says."""

    points: np.ndarray
    normals: np.ndarray
    hit: np.ndarray

    def facing(self, eye: np.ndarray, least: float = 0.01) -> tuple[np.ndarray, np.ndarray]:
        """Points and normals (N,3) of the pixels whose surface faces the eye (3,), by a cosine of at least `least`."""
        ray = self.points - eye
        ray /= np.maximum(np.linalg.norm(ray, axis=-1, keepdims=True), 1e-9)
        kept = self.hit & ((ray * self.normals).sum(-1) < -least)
        return self.points[kept], self.normals[kept]


def fibonacci(count: int) -> np.ndarray:
    """`count` unit directions (count,3) spread evenly over the sphere, from +y down."""
    number = np.arange(count)
    y = 1 - 2 * (number + 0.5) / count
    ring, turn = np.sqrt(1 - y * y), GOLDEN_ANGLE_RAD * number
    return np.stack([ring * np.cos(turn), y, ring * np.sin(turn)], axis=1)


def looking(eye: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Rotation (3,3) to camera axes, x right, y down, z from `eye` to `target`; +y is up, +z where it looks along y."""
    forward = np.asarray(target, np.float64) - eye
    forward /= np.linalg.norm(forward)
    up = np.array([0.0, 0.0, 1.0] if abs(forward[1]) > 0.999 else [0.0, 1.0, 0.0])
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(forward, right), forward]).astype(np.float32)


def project(points: np.ndarray, eye: np.ndarray, rotation: np.ndarray, focal_px: float, size: tuple[int, int]):
    """(pixels (N,2), depth (N,) mm) of points (N,3) before a camera at `eye` whose axis meets the middle of `size`."""
    own = (points - eye) @ rotation.T
    middle = (np.array(size[::-1], np.float32) - 1) / 2
    return focal_px * own[:, :2] / np.maximum(own[:, 2:], 1e-3) + middle, own[:, 2]


def see(
    vertices: np.ndarray, triangles: np.ndarray, eye: np.ndarray, rotation: np.ndarray, focal_px: float,
    size: tuple[int, int],
) -> View:  # fmt: skip
    """What a camera at `eye` (3,) with `rotation` (3,3) sees of a mesh, in a picture of `size` (H,W)."""
    pixels, depth = project(vertices, eye, rotation, focal_px, size)
    pad = -len(vertices) % VERTEX_STEP
    pixels, depth, own = (
        np.pad(array, [(0, pad)] + [(0, 0)] * (array.ndim - 1)).astype(np.float32)
        for array in (pixels, depth, vertices)
    )
    shown = np.pad(triangles, ((0, -len(triangles) % TRIANGLE_STEP), (0, 0)))
    points, normals, hit = map(np.asarray, _seen(pixels, depth, own, shown, size))
    return View(points, normals, hit)


@functools.partial(jax.jit, static_argnums=4)
def _seen(pixels: jax.Array, depth: jax.Array, vertices: jax.Array, triangles: jax.Array, size: tuple[int, int]):
    largest = max(size)
    tiers = tuple((window, None) for window in WINDOWS if window < largest) + ((largest, None),)
    shown = raster.rasterize(pixels, depth, triangles, *size, tiers=tiers).triangle_id
    hit = shown >= 0
    points = raster.interpolate(vertices, pixels, depth, triangles, shown)
    normals = mesh.face_normals(vertices, triangles)[jnp.maximum(shown, 0)]
    return points, jnp.where(hit[..., None], normals, 0.0), hit
