"""Random points of a mesh's surface, on the host: W vertices, T triangles (T,3) counter-clockwise from outside."""

import itertools
from typing import NamedTuple

import numpy as np


class SurfacePoints(NamedTuple):
    """N points as `triangle` (N,) int32 and barycentric `weights` (N,3) float32: the same place on any pose."""

    triangle: np.ndarray
    weights: np.ndarray

    def on(self, values: np.ndarray, triangles: np.ndarray) -> np.ndarray:
        """Vertex values (W,C) at the points: (N,C)."""
        return np.einsum("nk,nkc->nc", self.weights, values[triangles[self.triangle]]).astype(np.float32)


class Pairs(NamedTuple):
    """Corresponding points `neutral` and `posed` (N,3) float32."""

    neutral: np.ndarray
    posed: np.ndarray


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


def pairs(
    neutral: np.ndarray,
    posed: np.ndarray,
    parts: list[tuple[np.ndarray, int]],
    spreads: tuple[float, ...],
    rng: np.random.Generator,
) -> Pairs:
    """Corresponding points near two poses (W,3) of one mesh, in random order.

    `parts` are triangles (T,3) and how many pairs lie on them. Half are drawn on either pose, moved along the flat
    normal by a normal offset of one of the `spreads`, and carried over by barycentrics and the same offset.
    """
    made = []
    for triangles, count in parts:
        for drawn_on, spread in itertools.product((neutral, posed), spreads):
            points = sample(drawn_on, triangles, -(-count // (2 * len(spreads))), rng)
            offset = (spread * rng.standard_normal((len(points.triangle), 1))).astype(np.float32)
            corners = triangles[points.triangle]
            moved = [
                points.on(pose, triangles) + offset * unit(area_vectors(pose, corners)) for pose in (neutral, posed)
            ]
            made.append(np.stack(moved))
    whole = np.concatenate(made, axis=1)
    chosen = rng.permutation(whole.shape[1])[: sum(count for _, count in parts)]
    return Pairs(*whole[:, chosen].astype(np.float32))
