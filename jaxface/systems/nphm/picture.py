"""A picture of a fit: the scan's points and the fitted mesh, from the front."""

import numpy as np

from jaxface.geometry import sampling
from jaxface.meshes import Mesh
from jaxface.systems.nphm.scans import Similarity

SIZE, MARGIN = 384, 0.06
LIGHT = np.float32([0.3, 0.4, 0.87])
DRAWN = 400_000


def beside(cloud: np.ndarray, mesh: Mesh, similarity: Similarity) -> np.ndarray:
    """(SIZE, 2 SIZE, 3) uint8: scan points (N,3) by depth, and the mesh shaded; both in the scan's frame."""
    vertices = similarity(mesh.vertices)
    dots = sampling.sample(vertices, mesh.triangles, DRAWN, np.random.default_rng(0))
    points = dots.on(vertices, mesh.triangles)
    normals = dots.on(sampling.vertex_normals(vertices, mesh.triangles), mesh.triangles)
    shade = 0.2 + 0.8 * np.clip(normals @ LIGHT, 0, 1)
    scan = similarity(cloud)
    low, high = points.min(0), points.max(0)
    depth = np.clip((scan[:, 2] - low[2]) / max(high[2] - low[2], 1e-6), 0, 1)
    center, side = (low + high)[:2] / 2, (1 + 2 * MARGIN) * (high - low)[:2].max()
    panels = [_splat(values, gray, center, side, dot) for values, gray, dot in ((scan, depth, 2), (points, shade, 1))]
    return np.concatenate(panels, 1)


def _splat(points: np.ndarray, gray: np.ndarray, center: np.ndarray, side: float, dot: int) -> np.ndarray:
    """Points as squares of `dot` pixels, the nearest to the viewer on top."""
    picture = np.full((SIZE, SIZE), 255, np.uint8)
    order = np.argsort(points[:, 2])
    column = SIZE * (0.5 + (points[order, 0] - center[0]) / side)
    row = SIZE * (0.5 - (points[order, 1] - center[1]) / side)
    value = (230 * gray[order]).astype(np.uint8)
    for down in range(dot):
        for right in range(dot):
            y, x = (row + down).astype(int), (column + right).astype(int)
            inside = (y >= 0) & (y < SIZE) & (x >= 0) & (x < SIZE)
            picture[y[inside], x[inside]] = value[inside]
    return np.repeat(picture[..., None], 3, -1)
