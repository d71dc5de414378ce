"""Landmark layouts of heads: WFLW's 98 points from iBUG's 68, and landmarks as surface points."""

import numpy as np
import scipy.spatial

from jaxface.layouts import Layout

BROW_HALF_HEIGHT_MM = 3.5


def _resample(line: np.ndarray, count: int) -> np.ndarray:
    """Resamples the polyline `line` (L,3) at `count` equal steps of its vertex index."""
    at = np.linspace(0, len(line) - 1, count)
    return np.stack([np.interp(at, np.arange(len(line)), line[:, axis]) for axis in range(3)], axis=1)


def wflw_from_ibug(points: np.ndarray, pupils: np.ndarray) -> np.ndarray:
    """WFLW's points (98,3) mm of a neutral head from iBUG's points (68,3) and the pupils (2,3), subject's right first.

    Jaw and lids are resampled along the iBUG lines. The upper and lower line of a brow lie half its height above and
    below iBUG's single line, except at its outer end. Nose and mouth are common to both layouts.
    """
    up = np.array([0.0, BROW_HALF_HEIGHT_MM, 0.0])
    right, left = points[17:22], points[22:27]
    return np.concatenate(
        [
            _resample(points[0:17], 33),
            np.concatenate([right[:1], right[1:] + up, right[:0:-1] - up]),
            np.concatenate([left[:4] + up, left[4:], left[3::-1] - up]),
            points[27:36],
            _eye(points[36:42]),
            _eye(points[42:48]),
            points[48:68],
            pupils,
        ]
    )


def _eye(lid: np.ndarray) -> np.ndarray:
    """WFLW's 8 points of an eye from iBUG's 6: three instead of two between the corners of each lid."""
    lower = np.concatenate([lid[3:6], lid[:1]])
    return np.concatenate([_resample(lid[:4], 5)[:4], _resample(lower, 5)[:4]])


def snap(points: np.ndarray, template: np.ndarray, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Landmarks (see `MorphableHead.landmarks`) at the vertices of the mask `allowed` (V,) nearest to `points`."""
    index = np.flatnonzero(allowed)
    return at_vertices(index[scipy.spatial.cKDTree(template[index]).query(points)[1]])


def at_vertices(index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Landmarks (see `MorphableHead.landmarks`) at the vertices `index` (K,)."""
    return np.repeat(index[:, None], 3, axis=1).astype(np.int32), np.tile(np.float32([1, 0, 0]), (len(index), 1))


def attach(points: np.ndarray, template: np.ndarray, triangles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nearest places on a surface.

    Args:
        points: (N,3).
        template: (V,3) vertices.
        triangles: (T,3) of the surface.

    Returns:
        (vertices (N,3), barycentric weights (N,3)).
    """
    corner = template[triangles]
    edge_1, edge_2 = corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]
    a, b, c = (edge_1**2).sum(1), (edge_1 * edge_2).sum(1), (edge_2**2).sum(1)
    determinant = np.maximum(a * c - b * b, 1e-12)
    vertices, weights = [], []
    for point in points:
        offset = point - corner[:, 0]
        d, e = (offset * edge_1).sum(1), (offset * edge_2).sum(1)
        v, w = (c * d - b * e) / determinant, (a * e - b * d) / determinant
        share = np.maximum(np.stack([1 - v - w, v, w], axis=1), 0.0)
        share /= share.sum(1, keepdims=True)
        distance = np.linalg.norm((share[..., None] * corner).sum(1) - point, axis=1)
        best = distance.argmin()
        vertices.append(triangles[best])
        weights.append(share[best])
    return np.array(vertices), np.array(weights)


def attach_to_line(points: np.ndarray, template: np.ndarray, line: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places (as `attach`) between the two vertices of `line` (L,) nearest to each of `points` (N,3)."""
    distance = np.linalg.norm(template[line] - points[:, None], axis=-1)
    near = np.argsort(distance, axis=1)[:, :2]
    first, second = template[line[near[:, 0]]], template[line[near[:, 1]]]
    along = second - first
    t = np.clip(((points - first) * along).sum(1) / (along**2).sum(1), 0, 1)
    return line[near[:, [0, 1, 1]]], np.stack([1 - t, t, 0 * t], axis=1)


def surface_samples(template: np.ndarray, triangles: np.ndarray, steps: int) -> np.ndarray:
    """Points (N,3) of a regular barycentric grid with `steps` intervals on each of `triangles` (T,3)."""
    i, j = np.meshgrid(np.arange(steps + 1), np.arange(steps + 1), indexing="ij")
    inside = i + j <= steps
    first, second = i[inside] / steps, j[inside] / steps
    weights = np.stack([1 - first - second, first, second], axis=1)
    return np.einsum("sk,tkd->tsd", weights, template[triangles]).reshape(-1, 3)


def frontmost(xy: np.ndarray, template: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """The point (3,) with the largest z on `triangles` (T,3) over `xy` (2,). Raises ValueError if there is none."""
    corner = template[triangles]
    a, b, c = corner[:, 0, :2], corner[:, 1, :2] - corner[:, 0, :2], corner[:, 2, :2] - corner[:, 0, :2]
    determinant = b[:, 0] * c[:, 1] - b[:, 1] * c[:, 0]
    offset = xy - a
    with np.errstate(divide="ignore", invalid="ignore"):
        v = (offset[:, 0] * c[:, 1] - offset[:, 1] * c[:, 0]) / determinant
        w = (b[:, 0] * offset[:, 1] - b[:, 1] * offset[:, 0]) / determinant
    hit = (v >= 0) & (w >= 0) & (v + w <= 1)
    if not hit.any():
        raise ValueError(f"no triangle over {xy}")
    weights = np.stack([1 - v - w, v, w], axis=1)[hit]
    points = (weights[..., None] * corner[hit]).sum(1)
    return points[points[:, 2].argmax()]


def complete(
    half: dict[int, tuple[np.ndarray, np.ndarray]], layout: Layout, mirror: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """All points of a layout from those of the middle and the subject's left, by the mirror map (V,) of the mesh.

    `half`: point -> (vertices (3,), weights (3,)). Returns landmarks as in `MorphableHead.landmarks`.
    """
    index, weights = np.zeros((layout.count, 3), np.int32), np.zeros((layout.count, 3), np.float32)
    for point, (vertices, share) in half.items():
        index[layout.flip[point]], weights[layout.flip[point]] = mirror[vertices], share
    for point, (vertices, share) in half.items():
        index[point], weights[point] = vertices, share
    return index, weights
