"""The image that compares a scan with the mesh that was fitted to it."""

import numpy as np

from jaxface.geometry import views
from jaxface.geometry.alignment import Similarity
from jaxface.meshes import Mesh

# Side of each of its two panels, margin as a share of the head's size, side of a scan point.
PANEL_PX, MARGIN, POINT_PX = 384, 0.06, 2
# Direction to the light in the model's frame.
LIGHT = np.float32([0.3, 0.4, 0.87])
# Distance of the camera in model units; large, so that perspective is weak.
CAMERA_DISTANCE = 12.0


def draw_comparison(cloud: np.ndarray, mesh: Mesh, similarity: Similarity) -> np.ndarray:
    """Frontal image (PANEL_PX, 2 PANEL_PX, 3) uint8 of a scan, by depth, next to the fitted mesh, shaded.

    Args:
        cloud: scan points (N,3) in the scan's frame.
        mesh: the fitted mesh in the scan's frame.
        similarity: from the scan to the model's frame, whose z axis points to the camera.
    """
    vertices = similarity(mesh.vertices)
    low, high = vertices.min(0), vertices.max(0)
    center = (low + high) / 2
    eye = center + np.array([0.0, 0.0, CAMERA_DISTANCE])
    focal_px = PANEL_PX * CAMERA_DISTANCE / ((1 + 2 * MARGIN) * (high - low)[:2].max())
    camera = eye, views.look_at(eye, center), focal_px
    view = views.render(vertices, mesh.triangles, *camera, (PANEL_PX, PANEL_PX))
    shading = 0.2 + 0.8 * np.clip(view.normals @ LIGHT, 0, 1)
    rendered = np.where(view.hit, 230 * shading, 255).astype(np.uint8)
    pixels, depth = views.project(similarity(cloud), *camera, (PANEL_PX, PANEL_PX))
    nearness = np.clip(0.5 - (depth - CAMERA_DISTANCE) / (high[2] - low[2]), 0, 1)
    panels = np.concatenate([_draw_points(pixels, nearness), rendered], axis=1)
    return np.repeat(panels[..., None], 3, -1)


def _draw_points(pixels: np.ndarray, nearness: np.ndarray) -> np.ndarray:
    """Points (N,2) px as squares on white; points with high nearness (N,) are darker and cover the others."""
    image = np.full((PANEL_PX, PANEL_PX), 255, np.uint8)
    order = np.argsort(nearness)
    column, row = pixels[order].T
    grey = (210 * (1 - nearness[order])).astype(np.uint8)
    for down in range(POINT_PX):
        for right in range(POINT_PX):
            y, x = (row + down).astype(int), (column + right).astype(int)
            inside = (y >= 0) & (y < PANEL_PX) & (x >= 0) & (x < PANEL_PX)
            image[y[inside], x[inside]] = grey[inside]
    return image
