"""As-rigid-as-possible mesh deformation (Sorkine & Alexa, SGP 2007) with soft positional constraints."""

import numpy as np
import scipy.sparse
import scipy.sparse.linalg

# Cotangent weights are clipped to [MIN_COTANGENT, 1/MIN_COTANGENT], so that the system stays positive definite.
MIN_COTANGENT = 1e-2


class Arap:
    """ARAP deformation of a rest shape (V,3) with triangles (T,3)."""

    def __init__(self, rest: np.ndarray, triangles: np.ndarray):
        self.rest = np.asarray(rest, np.float64)
        self.first, self.second, self.weight = _edges(self.rest, triangles)
        count = len(rest)
        ends = (np.concatenate([self.first, self.second]), np.concatenate([self.second, self.first]))
        adjacency = scipy.sparse.csr_matrix((np.tile(self.weight, 2), ends), (count, count))
        self.laplacian = scipy.sparse.diags(np.asarray(adjacency.sum(1)).ravel()) - adjacency

    def deform(self, current: np.ndarray, targets: np.ndarray, weights: np.ndarray, iterations: int = 3) -> np.ndarray:
        """Vertices (V,3) that minimise weights * |x - targets|^2 plus the ARAP energy against the rest shape.

        Args:
            current: (V,3), initial vertices.
            targets: (V,3), soft constraints.
            weights: (V,) of the constraints, >= 0 and not all 0.
            iterations: alternations of the local step (rotations) and the global step (linear solve).
        """
        solve = scipy.sparse.linalg.factorized((self.laplacian + scipy.sparse.diags(weights)).tocsc())
        for _ in range(iterations):
            right = self._right_side(self._rotations(current)) + weights[:, None] * targets
            current = np.stack([solve(right[:, axis]) for axis in range(3)], axis=1)
        return current

    def _sum_at(self, per_edge: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Sums (V,C) over edges of values (E,C) at the end points `ends` (E,)."""
        columns = [np.bincount(ends, column, len(self.rest)) for column in per_edge.T]
        return np.stack(columns, axis=1)

    def _rotations(self, current: np.ndarray) -> np.ndarray:
        """Local step: rotations (V,3,3) that best map the rest edges of each vertex to its current edges."""
        rest = self.rest[self.first] - self.rest[self.second]
        deformed = current[self.first] - current[self.second]
        outer = (self.weight[:, None, None] * deformed[:, :, None] * rest[:, None, :]).reshape(-1, 9)
        covariance = (self._sum_at(outer, self.first) + self._sum_at(outer, self.second)).reshape(-1, 3, 3)
        u, _, vt = np.linalg.svd(covariance)
        u[:, :, 2] *= np.linalg.det(u @ vt)[:, None]
        return u @ vt

    def _right_side(self, rotations: np.ndarray) -> np.ndarray:
        """Right-hand side (V,3) of the global step: rest edges rotated by the mean of their ends' rotations, summed."""
        rest = self.rest[self.first] - self.rest[self.second]
        mean = 0.5 * (rotations[self.first] + rotations[self.second])
        rotated = self.weight[:, None] * (mean @ rest[..., None])[..., 0]
        return self._sum_at(rotated, self.first) - self._sum_at(rotated, self.second)


def _edges(rest: np.ndarray, triangles: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(first vertex (E,), second vertex (E,), clipped cotangent weight (E,)) of all edges."""
    firsts, seconds, weights = [], [], []
    for corner in range(3):
        i, j, k = (triangles[:, (corner + step) % 3] for step in range(3))
        a, b = rest[i] - rest[k], rest[j] - rest[k]
        area = np.linalg.norm(np.cross(a, b), axis=1)
        firsts.append(np.minimum(i, j))
        seconds.append(np.maximum(i, j))
        weights.append(0.5 * (a * b).sum(1) / np.maximum(area, 1e-12))
    first, second, weight = map(np.concatenate, (firsts, seconds, weights))
    key, where = np.unique(first.astype(np.int64) * len(rest) + second, return_inverse=True)
    summed = np.clip(np.bincount(where, weight), MIN_COTANGENT, 1 / MIN_COTANGENT)
    return key // len(rest), key % len(rest), summed
