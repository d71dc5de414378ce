"""Random points of a mesh's surface, on the host: W vertices, T triangles (T,3) counter-clockwise from outside."""

from typing import NamedTuple

import numpy as np


class SurfacePoints(NamedTuple):
    """N points as `triangle` (N,) int32 and barycentric `weights` (N,3) float32: the same place on any pose."""

    triangle: np.ndarray
    weights: np.ndarray

    def on(self, values: np.ndarray, triangles: np.ndarray) -> np.ndarray:
        """Vertex values (W,C) at the points: (N,C)."""
        return np.einsum("nk,nkc->nc", self.weights, values[triangles[self.triangle]]).astype(np.float32)


def area_vectors(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """(T,3): along each triangle's normal, as long as its area."""
    a, b, c = (vertices[triangles[:, corner]] for corner in range(3))
    return 0.5 * np.cross(b - a, c - a)


def sample(vertices: np.ndarray, triangles: np.ndarray, count: int, rng: np.random.Generator) -> SurfacePoints:
    """`count` points, uniform over the area of a mesh (W,3). ValueError for a mesh without area."""
    area = np.linalg.norm(area_vectors(vertices, triangles), axis=1).astype(np.float64)
    total = np.cumsum(area)
    if not len(area) or total[-1] <= 0:
        raise ValueError("a mesh without area has no surface to draw points from")
    # The last area may round below the largest draw.
    chosen = np.minimum(np.searchsorted(total, rng.random(count) * total[-1], "right"), len(area) - 1)
    first, second = np.sqrt(rng.random(count)), rng.random(count)
    weights = np.stack([1 - first, first * (1 - second), first * second], axis=1)
    return SurfacePoints(chosen.astype(np.int32), weights.astype(np.float32))


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (…,3) of length one; those of length zero stay zero."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)


def vertex_normals(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Unit normals (W,3) float32: triangles count by their area, so that slivers do not turn them."""
    vectors = area_vectors(vertices, triangles)
    around = triangles.ravel()
    summed = [np.bincount(around, np.repeat(vectors[:, axis], 3), len(vertices)) for axis in range(3)]
    return unit(np.stack(summed, axis=1)).astype(np.float32)
