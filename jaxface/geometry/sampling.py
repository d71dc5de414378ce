"""Random points on mesh surfaces (host): W vertices, triangles (T,3) counter-clockwise from outside."""

import itertools
from typing import NamedTuple

import numpy as np


class SurfacePoints(NamedTuple):
    """N surface points as `triangle` (N,) int32 and barycentric `weights` (N,3) float32, valid for any pose."""

    triangle: np.ndarray
    weights: np.ndarray

    def on(self, values: np.ndarray, triangles: np.ndarray) -> np.ndarray:
        """Interpolates vertex values (W,C) at the points: (N,C)."""
        return np.einsum("nk,nkc->nc", self.weights, values[triangles[self.triangle]]).astype(np.float32)


class Pairs(NamedTuple):
    """Corresponding points `neutral` and `posed` (N,3) float32."""

    neutral: np.ndarray
    posed: np.ndarray


def area_vectors(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Area vectors (T,3): triangle normals scaled by the area."""
    a, b, c = (vertices[triangles[:, corner]] for corner in range(3))
    return 0.5 * np.cross(b - a, c - a)


def sample(vertices: np.ndarray, triangles: np.ndarray, count: int, rng: np.random.Generator) -> SurfacePoints:
    """`count` random points, uniform over the area of a mesh (W,3). Raises ValueError if the mesh has no area."""
    area = np.linalg.norm(area_vectors(vertices, triangles), axis=1).astype(np.float64)
    total = np.cumsum(area)
    if not len(area) or total[-1] <= 0:
        raise ValueError("mesh: the area is 0, no points can be sampled on it; check its triangles")
    # The cumulative sum may round below the largest random draw.
    chosen = np.minimum(np.searchsorted(total, rng.random(count) * total[-1], "right"), len(area) - 1)
    first, second = np.sqrt(rng.random(count)), rng.random(count)
    weights = np.stack([1 - first, first * (1 - second), first * second], axis=1)
    return SurfacePoints(chosen.astype(np.int32), weights.astype(np.float32))


def unit(vectors: np.ndarray) -> np.ndarray:
    """Unit vectors (…,3); zero vectors stay zero."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)


def vertex_normals(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Area-weighted unit vertex normals (W,3) float32: slivers have little influence."""
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
    """Corresponding points near two poses of one mesh, in random order.

    Half of the points are sampled on either pose, displaced along the face normal by a Gaussian offset, and carried to
    the other pose by barycentric coordinates and the same offset.

    Args:
        neutral, posed: vertices (W,3) of both poses.
        parts: (triangles (T,3), number of pairs to sample on them).
        spreads: standard deviations of the offset, each used for an equal share of the points.
        rng: random generator.
    """
    samples = []
    for triangles, count in parts:
        for pose, spread in itertools.product((neutral, posed), spreads):
            points = sample(pose, triangles, -(-count // (2 * len(spreads))), rng)
            offset = (spread * rng.standard_normal((len(points.triangle), 1))).astype(np.float32)
            corners = triangles[points.triangle]
            moved = [
                points.on(mesh, triangles) + offset * unit(area_vectors(mesh, corners)) for mesh in (neutral, posed)
            ]
            samples.append(np.stack(moved))
    merged = np.concatenate(samples, axis=1)
    chosen = rng.permutation(merged.shape[1])[: sum(count for _, count in parts)]
    return Pairs(*merged[:, chosen].astype(np.float32))
