"""A picture of a fit: the scan's points and the fitted mesh, from the front."""

import numpy as np

from jaxface.geometry import views
from jaxface.geometry.alignment import Similarity
from jaxface.meshes import Mesh

SIZE, MARGIN = 384, 0.06
LIGHT = np.float32([0.3, 0.4, 0.87])
# Of the camera, in model units: far, so that the head looks as in a portrait.
DISTANCE = 12.0
DOT_PX = 2


def beside(cloud: np.ndarray, mesh: Mesh, similarity: Similarity) -> np.ndarray:
    """(SIZE, 2 SIZE, 3) uint8: scan points (N,3) by depth, and the mesh shaded; both in the scan's frame."""
    vertices = similarity(mesh.vertices)
    low, high = vertices.min(0), vertices.max(0)
    center = (low + high) / 2
    eye = center + np.array([0.0, 0.0, DISTANCE])
    camera = eye, views.looking(eye, center), SIZE * DISTANCE / ((1 + 2 * MARGIN) * (high - low)[:2].max())
    seen = views.see(vertices, mesh.triangles, *camera, (SIZE, SIZE))
    shade = 0.2 + 0.8 * np.clip(seen.normals @ LIGHT, 0, 1)
    rendered = np.where(seen.hit, 230 * shade, 255).astype(np.uint8)
    pixels, depth = views.project(similarity(cloud), *camera, (SIZE, SIZE))
    nearness = np.clip(0.5 - (depth - DISTANCE) / (high[2] - low[2]), 0, 1)
    panels = _dots(pixels, nearness), rendered
    return np.repeat(np.concatenate(panels, 1)[..., None], 3, -1)


def _dots(pixels: np.ndarray, nearness: np.ndarray) -> np.ndarray:
    """Points (N,2) as squares of DOT_PX, the nearest (N,) on top and the darkest."""
    picture = np.full((SIZE, SIZE), 255, np.uint8)
    order = np.argsort(nearness)
    column, row = pixels[order].T
    value = (210 * (1 - nearness[order])).astype(np.uint8)
    for down in range(DOT_PX):
        for right in range(DOT_PX):
            y, x = (row + down).astype(int), (column + right).astype(int)
            inside = (y >= 0) & (y < SIZE) & (x >= 0) & (x < SIZE)
            picture[y[inside], x[inside]] = value[inside]
    return picture
