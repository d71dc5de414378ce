"""Exact closest points of a triangle mesh, on the host.

Candidate triangles come from a KD-tree of their centroids and are checked exactly (Ericson, Real-Time Collision
Detection, 2005, §5.1.5).
"""

import numpy as np
import scipy.spatial

from jaxface.errors import UserError

# Candidates of the first query of a point; four times as many in each further one, while a closer triangle may exist.
CANDIDATES = 12


class SurfaceQuery:
    """Closest-point queries on a mesh of vertices (V,3) and triangles (T,3); exact for triangles of any size.

    Raises UserError if there are no triangles, an index is out of range or a vertex is not finite.
    """

    def __init__(self, vertices: np.ndarray, triangles: np.ndarray):
        vertices, triangles = np.asarray(vertices, np.float64), np.asarray(triangles)
        if triangles.size == 0 or triangles.min() < 0 or triangles.max() >= len(vertices):
            raise UserError("mesh: needs triangles with indices of its vertices; check that it is not a point cloud")
        if not np.isfinite(vertices).all():
            raise UserError("mesh: some vertices are NaN or infinite; use finite vertices")
        self._corners = vertices[triangles]
        centroids = self._corners.mean(1)
        self._radius = np.linalg.norm(self._corners - centroids[:, None], axis=-1).max(1)
        self._tree = scipy.spatial.cKDTree(centroids)
        a, b, c = np.moveaxis(self._corners, 1, 0)
        normals = np.cross(b - a, c - a)
        self._normals = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)

    def closest(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Closest surface points (N,3) to points (N,3), and the unit normals (N,3) of their triangles."""
        points = np.asarray(points, np.float64)
        closest, triangle = np.empty_like(points), np.empty(len(points), int)
        pending, count = np.arange(len(points)), min(CANDIDATES, len(self._corners))
        while len(pending):
            found = self._tree.query(points[pending], count)
            distance, candidates = (array.reshape(len(pending), -1) for array in found)
            closest[pending], triangle[pending], best = self._closest_of(points[pending], distance, candidates)
            # A triangle whose centroid is farther than the last candidate's cannot come closer than this bound.
            certain = best <= distance[:, -1] - self._radius.max()
            if count == len(self._corners):
                break
            pending, count = pending[~certain], min(4 * count, len(self._corners))
        return closest, self._normals[triangle]

    def _closest_of(self, points: np.ndarray, distance: np.ndarray, candidates: np.ndarray) -> tuple[np.ndarray, ...]:
        """Closest point among candidate triangles.

        Args:
            points: (N,3).
            distance: (N,K) from each point to the centroids of its candidates.
            candidates: (N,K) triangle indices, nearest centroid first.

        Returns:
            (closest points (N,3), triangle (N,), distance (N,)).
        """
        first = closest_on_triangles(points, self._corners[candidates[:, 0]])
        bound = np.linalg.norm(first - points, axis=1)
        # Only triangles that can be closer than the first one are computed.
        row, column = np.nonzero(distance - self._radius[candidates] <= bound[:, None])
        closest = closest_on_triangles(points[row], self._corners[candidates[row, column]])
        squared = np.full(candidates.shape, np.inf)
        squared[row, column] = ((closest - points[row]) ** 2).sum(1)
        chosen = squared.argmin(1)
        index = np.zeros(candidates.shape, int)
        index[row, column] = np.arange(len(row))
        every = np.arange(len(points))
        return closest[index[every, chosen]], candidates[every, chosen], np.sqrt(squared[every, chosen])


def closest_on_triangles(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Closest points (…,3) of triangles (…,3,3) to points (…,3); degenerate triangles count as their edges."""
    a, b, c = np.moveaxis(corners, -2, 0)
    edges = ((a, b), (b, c), (c, a))
    normal = np.cross(b - a, c - a)
    squared_area = (normal**2).sum(-1)
    safe = np.where(squared_area > 0, squared_area, 1)
    offset = ((points - a) * normal).sum(-1) / safe
    projected = points - offset[..., None] * normal
    inside = squared_area > 0
    for start, end in edges:
        inside &= (np.cross(end - start, projected - start) * normal).sum(-1) >= 0
    on_edges = np.stack([closest_on_segments(points, *ends) for ends in edges])
    nearest = ((on_edges - points) ** 2).sum(-1).argmin(0)
    on_boundary = np.take_along_axis(on_edges, nearest[None, ..., None], 0)[0]
    return np.where(inside[..., None], projected, on_boundary)


def barycentric(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Barycentric coordinates (…,3) of points (…,3) in the planes of triangles (…,3,3)."""
    edges = corners[..., 1:, :] - corners[..., :1, :]
    gram = edges @ np.swapaxes(edges, -1, -2)
    right = (edges * (points - corners[..., 0, :])[..., None, :]).sum(-1)
    determinant = gram[..., 0, 0] * gram[..., 1, 1] - gram[..., 0, 1] ** 2
    safe = np.where(determinant > 0, determinant, 1)
    second = (gram[..., 1, 1] * right[..., 0] - gram[..., 0, 1] * right[..., 1]) / safe
    third = (gram[..., 0, 0] * right[..., 1] - gram[..., 0, 1] * right[..., 0]) / safe
    return np.stack([1 - second - third, second, third], -1)


def closest_on_segments(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Closest points (…,3) of segments from `start` (…,3) to `end` (…,3) to points (…,3)."""
    direction = end - start
    squared_length = (direction**2).sum(-1)
    share = ((points - start) * direction).sum(-1) / np.where(squared_length > 0, squared_length, 1)
    return start + np.clip(share, 0, 1)[..., None] * direction


def fit_sphere(points: np.ndarray) -> tuple[np.ndarray, float]:
    """Centre (3,) and radius of the least-squares sphere through points (N,3)."""
    points = points.astype(np.float64)
    middle = points.mean(0)
    centered = points - middle
    system = np.column_stack([2 * centered, np.ones(len(centered))])
    solution = np.linalg.lstsq(system, (centered**2).sum(1), rcond=None)[0]
    return middle + solution[:3], float(np.sqrt(solution[3] + solution[:3] @ solution[:3]))
