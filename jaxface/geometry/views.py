"""Position and normal maps of a mesh rendered from a camera. Lengths are millimetres."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxface.geometry import mesh, raster

GOLDEN_ANGLE_RAD = np.pi * (3 - 5**0.5)
# Meshes are padded to multiples of these, so that one compiled renderer serves many.
VERTEX_STEP, TRIANGLE_STEP = 8192, 16384
# Fewer rasteriser tiers than the default: they are compiled for each image size and run only a few times.
WINDOWS = (8, 64)


class View(NamedTuple):
    """Position map and normal map (H,W,3) in the mesh's frame (mm; unit), 0 for background; mask `hit` (H,W) bool.

    Normals are face normals, oriented by the winding.
    """

    points: np.ndarray
    normals: np.ndarray
    hit: np.ndarray

    def facing(self, eye: np.ndarray, min_cosine: float = 0.01) -> tuple[np.ndarray, np.ndarray]:
        """(points (N,3), normals (N,3)) of the pixels whose surface faces `eye` (3,), by a cosine over `min_cosine`."""
        ray = self.points - eye
        ray /= np.maximum(np.linalg.norm(ray, axis=-1, keepdims=True), 1e-9)
        kept = self.hit & ((ray * self.normals).sum(-1) < -min_cosine)
        return self.points[kept], self.normals[kept]


def fibonacci_sphere(count: int) -> np.ndarray:
    """Fibonacci sphere: `count` unit directions (count,3), evenly spread, from +y to -y."""
    number = np.arange(count)
    y = 1 - 2 * (number + 0.5) / count
    ring, turn = np.sqrt(1 - y * y), GOLDEN_ANGLE_RAD * number
    return np.stack([ring * np.cos(turn), y, ring * np.sin(turn)], axis=1)


def look_at(eye: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Look-at rotation (3,3) to camera axes x right, y down, z to `target`; up is +y, or +z when looking along y."""
    forward = np.asarray(target, np.float64) - eye
    forward /= np.linalg.norm(forward)
    up = np.array([0.0, 0.0, 1.0] if abs(forward[1]) > 0.999 else [0.0, 1.0, 0.0])
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(forward, right), forward]).astype(np.float32)


def project(points: np.ndarray, eye: np.ndarray, rotation: np.ndarray, focal_px: float, size: tuple[int, int]):
    """(pixels (N,2), depth (N,) mm) of points (N,3) in a camera at `eye`, principal point at the centre of `size`."""
    in_camera = (points - eye) @ rotation.T
    center_px = (np.array(size[::-1], np.float32) - 1) / 2
    return focal_px * in_camera[:, :2] / np.maximum(in_camera[:, 2:], 1e-3) + center_px, in_camera[:, 2]


def render(
    vertices: np.ndarray, triangles: np.ndarray, eye: np.ndarray, rotation: np.ndarray, focal_px: float,
    size: tuple[int, int],
) -> View:  # fmt: skip
    """Renders a mesh (V,3), (T,3) from a camera at `eye` (3,) with `rotation` (3,3) into an image of `size` (H,W)."""
    pixels, depth = project(vertices, eye, rotation, focal_px, size)
    pad = -len(vertices) % VERTEX_STEP
    pixels, depth, padded_vertices = (
        np.pad(array, [(0, pad)] + [(0, 0)] * (array.ndim - 1)).astype(np.float32)
        for array in (pixels, depth, vertices)
    )
    padded_triangles = np.pad(triangles, ((0, -len(triangles) % TRIANGLE_STEP), (0, 0)))
    points, normals, hit = map(np.asarray, _render(pixels, depth, padded_vertices, padded_triangles, size))
    return View(points, normals, hit)


@functools.partial(jax.jit, static_argnums=4)
def _render(pixels: jax.Array, depth: jax.Array, vertices: jax.Array, triangles: jax.Array, size: tuple[int, int]):
    largest = max(size)
    tiers = tuple((window, None) for window in WINDOWS if window < largest) + ((largest, None),)
    triangle_id = raster.rasterize(pixels, depth, triangles, *size, tiers=tiers).triangle_id
    hit = triangle_id >= 0
    points = raster.interpolate(vertices, pixels, depth, triangles, triangle_id)
    normals = mesh.face_normals(vertices, triangles)[jnp.maximum(triangle_id, 0)]
    return points, jnp.where(hit[..., None], normals, 0.0), hit
